"""Laws of waiting for actors: what an actor raised is told in one sentence, whether a call raised it or its constructor."""

import asyncio
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from actors.calls import outcome, started, translated
from rlvr.errors import ActorError, Closed, FiresteelError, QueueError, UserError

FRAMES = """Traceback (most recent call last):
ValueError: ray::inner: was it?

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/lib/python3.11/concurrent/futures/_base.py", line 449, in result
    return self.__get_result()
           ^^^^^^^^^^^^^^^^^^^
  File "/actors/queue/service.py", line 66, in __init__
    raise error
"""


def died(last: str, cause: BaseException) -> ActorDiedError:
    """As Ray tells of an actor whose constructor raised: the text of a traceback, and no cause."""
    error = ActorDiedError.from_task_error(RayTaskError("__init__", FRAMES + last, cause, proctitle="ray::Queue.__init__", pid=1, ip="127.0.0.1"))
    assert not hasattr(error, "cause")
    assert error.actor_init_failed
    return error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UserError("the journal was written in format 7: resume it"), UserError("the journal was written in format 7: resume it")),
        (QueueError("segment 00000001 is corrupt at byte 12: x"), ActorError("queue failed: QueueError: segment 00000001 is corrupt at byte 12: x")),
        (Closed("the run is over"), Closed("the run is over")),
        (ValueError("no number"), ActorError("queue failed: ActorDiedError: builtins.ValueError: no number")),
    ],
)
def test_what_a_constructor_raised_is_told_as_it_was(raised: Exception, expected: FiresteelError) -> None:
    told = translated("queue", died(f"{type(raised).__module__}.{type(raised).__name__}: {raised}", raised))
    assert (type(told), str(told)) == (type(expected), str(expected))


def test_an_actor_that_died_of_nothing_known_is_told_by_rays_first_line() -> None:
    assert str(translated("queue", ActorDiedError())) == f"queue failed: ActorDiedError: {ActorDiedError.BASE_ERROR_MSG}"


@pytest.mark.ray
@pytest.mark.parametrize("in_constructor", [True, False])
def test_a_real_actors_errors_are_told_the_same_from_constructor_and_call(ray_session: None, in_constructor: bool) -> None:
    class Broken:
        def __init__(self, error: Exception, in_constructor: bool) -> None:
            self._error = error
            if in_constructor:
                self.fail()

        def fail(self) -> None:
            try:
                raise ValueError("deeper")
            except ValueError as error:
                raise self._error from error

    async def told(error: Exception) -> FiresteelError:
        actor: Any = ray.remote(Broken).options(num_cpus=0).remote(error, in_constructor)  # type: ignore[attr-defined]
        with pytest.raises(FiresteelError) as caught:
            await outcome("queue", actor.fail.remote())
        return caught.value

    user, queue = asyncio.run(told(UserError("format 7: use 8"))), asyncio.run(told(QueueError("segment 3, byte 9")))
    assert (type(user), str(user)) == (UserError, "format 7: use 8")
    assert (type(queue), str(queue)) == (ActorError, "queue failed: QueueError: segment 3, byte 9")


def test_nobody_to_wait_for_has_started() -> None:
    assert asyncio.run(started([], [])) == []
