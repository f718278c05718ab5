"""Laws of the queue's clients: a queue that is being restarted is waited for, what it says itself goes through."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import ray.exceptions
from queue_fakes import rollouts_of

from actors.queue import client as client_module
from actors.queue.client import BlockingQueueClient, QueueClient
from actors.queue.records import PutResult, RefuseReason
from rlvr.errors import ActorError, Closed, QueueError
from rlvr.records import Lease, Partial, Version, VersionSpan
from rlvr.wire import pack, unpack

LEASE = Lease(id="0/1", problem_id="p", group_id="g", rollout_ids=("r0", "r1"), prompt_ids=(1, 2), step=1)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 0.001)


class RestartedQueue:
    """Its process dies `deaths` times, then it answers; every method records what it was asked."""

    def __init__(self, answer: Any, *, deaths: Sequence[Exception] = ()) -> None:
        self.answer = answer
        self.deaths = list(deaths)
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, method: str) -> Any:
        queue = self

        class Method:
            def remote(self, *arguments: Any) -> Any:
                return queue.reply(method, *arguments)

        return Method()

    async def reply(self, method: str, *arguments: Any) -> Any:
        self.asked.append((method, *arguments))
        if self.deaths:
            raise self.deaths.pop(0)
        return self.answer


def away() -> Exception:
    return ray.exceptions.ActorUnavailableError("it restarts", None)


def failed(cause: Exception) -> Exception:
    return ray.exceptions.RayTaskError("lease", "a trace", cause)


def test_a_queue_that_is_away_for_a_while_is_asked_again_the_same() -> None:
    queue = RestartedQueue(pack([LEASE]), deaths=[away(), ray.exceptions.ActorDiedError(), away()])
    leases = asyncio.run(QueueClient(queue).lease(2, generator="g0", applied=Version(step=3), wait_s=1.0))
    assert leases == [LEASE]
    assert queue.asked == [("lease", 2, "g0", "0.3", 1.0, None)] * 4


def test_a_verifier_says_which_leases_it_has_only_after_the_queue_was_away() -> None:
    queue = RestartedQueue(pack([]), deaths=[away()])
    asyncio.run(QueueClient(queue).lease_unverified(8, verifier="v0", wait_s=1.0, holding=lambda: ["v/1"]))
    assert [arguments[-1] for arguments in queue.asked] == [None, ["v/1"]]


def test_a_queue_that_stays_away_is_an_actor_error() -> None:
    queue = RestartedQueue(None, deaths=[away() for _ in range(10_000)])
    with pytest.raises(ActorError, match="does not answer: ActorUnavailableError"):
        asyncio.run(QueueClient(queue, patience_s=0.02).beat("g0", role="generator"))
    assert len(queue.asked) > 1


@pytest.mark.parametrize("said", [Closed("the run is over"), QueueError("another lineage")])
def test_what_the_queue_itself_says_goes_through_at_once(said: Exception) -> None:
    queue = RestartedQueue(None, deaths=[failed(said)])
    with pytest.raises(type(said), match=str(said)):
        asyncio.run(QueueClient(queue).beat("g0", role="generator"))
    assert len(queue.asked) == 1


def test_a_queue_that_cannot_even_be_built_is_not_waited_for() -> None:
    queue = RestartedQueue(None, deaths=[ray.exceptions.ActorDiedError(failed(ValueError("corrupt journal")))])  # type: ignore[arg-type]
    with pytest.raises(ActorError, match="does not start"):
        asyncio.run(QueueClient(queue).counts())
    assert len(queue.asked) == 1


@pytest.mark.parametrize(("deaths", "refused"), [(0, RefuseReason.DUPLICATE), (1, None)])
def test_a_duplicate_is_no_refusal_where_the_answer_to_the_first_try_was_lost(deaths: int, refused: RefuseReason | None) -> None:
    answer = pack([PutResult("r0", RefuseReason.DUPLICATE), PutResult("r1", RefuseReason.UNKNOWN_LEASE)])
    queue = RestartedQueue(answer, deaths=[away() for _ in range(deaths)])
    results = asyncio.run(QueueClient(queue).put(rollouts_of(LEASE), generator="g0"))
    assert results == [PutResult("r0", refused), PutResult("r1", RefuseReason.UNKNOWN_LEASE)]


def test_partials_travel_with_the_lease_that_is_handed_back() -> None:
    partial = Partial(rollout_id="r0", token_data=b"\1\0\0\0", logprob_data=bytes(4), spans=(VersionSpan(Version(), 0, 1),))
    queue = RestartedQueue(2)
    assert asyncio.run(QueueClient(queue).hand_back("0/1", [partial], generator="g0")) == 2
    (method, generator, lease_id, frame) = queue.asked[0]
    assert (method, generator, lease_id, unpack(frame, list[Partial])) == ("hand_back", "g0", "0/1", [partial])


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (lambda client: client.commit(7), ("commit", 7)),
        (lambda client: client.roll_back(7), ("roll_back", 7)),
        (lambda client: client.expect("g0#1", role="generator"), ("expect", "g0#1", "generator")),
        (lambda client: client.lost("g0#1"), ("lost", "g0#1")),
    ],
)
def test_the_controllers_calls_reach_the_queue(call: Callable[[QueueClient], Any], asked: tuple[Any, ...]) -> None:
    queue = RestartedQueue(3)
    asyncio.run(call(QueueClient(queue)))
    assert queue.asked == [asked]


def test_the_learner_waits_for_a_restarted_queue_and_names_its_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = RestartedQueue(b"frame", deaths=[away(), away()])
    monkeypatch.setattr(ray, "get", asyncio.run)  # the fake queue's answers are coroutines
    assert BlockingQueueClient(queue).next_batch_frame(4, lineage=2, wait_s=0.5) == b"frame"
    assert queue.asked == [("next_batch", 4, 2, 0.5)] * 3
