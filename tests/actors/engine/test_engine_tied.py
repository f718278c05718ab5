"""An engine whose head is its embedding: updated weights reach both; then what its death looks like."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest
from engine_under_test import EngineUnderTest, running_engine

from actors.engine.engine import Completion
from rlvr.errors import EngineError
from rlvr.records import Version

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]

PARITY = 1e-4


@pytest.fixture(scope="module")
def running() -> Iterator[EngineUnderTest]:
    with running_engine(tied=True) as engine:
        yield engine


def test_tied_weights_are_updated_in_the_embedding_and_in_the_head(running: EngineUnderTest) -> None:
    assert "lm_head.weight" not in running.weights[Version()]
    for _ in range(2):
        version = running.publish()
        running.run(running.engine.apply(version))
        requests = [running.request((5, 6, 2 + index), temperature=0.7) for index in range(16)]
        completions = running.sample(requests)
        assert {span.version for completion in completions for span in completion.spans} == {version}
        assert max(running.distance(request, completion) for request, completion in zip(requests, completions, strict=True)) <= PARITY


def test_a_tied_update_in_flight_gives_each_span_its_own_weights(running: EngineUnderTest) -> None:
    version = running.publish()
    requests = [running.request((5, 6, 2 + index), max_tokens=100) for index in range(16)]

    async def apply_in_flight() -> list[Completion]:
        async with asyncio.TaskGroup() as group:
            short = group.create_task(running.engine.sample(running.request((5, 6), max_tokens=5)))
            tasks = [group.create_task(running.engine.sample(request)) for request in requests]
            await short
            await running.engine.apply(version)
        return [task.result() for task in tasks]

    completions = running.run(apply_in_flight())
    assert {len(completion.spans) for completion in completions} == {2}
    assert max(running.distance(request, completion) for request, completion in zip(requests, completions, strict=True)) <= PARITY


def test_a_kept_version_waits_for_its_turn_behind_newer_ones(running: EngineUnderTest) -> None:
    serving = running.engine.version
    kept = running.publish(keep=True)
    for step in (kept.step + 1, kept.step + 2):
        running.weights[Version(step=step)] = running.weights[kept]
        running.sender.publish(Version(step=step), running.weights[kept])
    staged = running.run(running.staged(serving))
    assert (staged.version, staged.keep) == (kept, True)
    running.run(running.engine.apply(kept))
    newest = running.run(running.staged(kept))
    assert newest.version == Version(step=kept.step + 2)
    running.run(running.engine.apply(newest.version))


def test_a_version_that_was_returned_is_applied_though_newer_ones_came(running: EngineUnderTest) -> None:
    returned = running.publish()
    newest = Version(step=returned.step + 1)
    running.weights[newest] = running.weights[returned]
    running.sender.publish(newest, running.weights[newest])
    running.run(running.engine.apply(returned))
    assert running.engine.version == returned
    assert running.run(running.staged(returned)).version == newest
    running.run(running.engine.apply(newest))


def test_the_death_of_the_engine_is_an_error_at_everybody_who_waits_and_leaves_no_process(running: EngineUnderTest) -> None:
    """The last of this module: it ends the engine."""
    (process,) = [child for child in multiprocessing.active_children() if "EngineCore" in child.name]

    async def wait_for_the_end() -> list[BaseException | Completion]:
        waiting = [running.engine.sample(running.request((2, 3), max_tokens=200)) for _ in range(8)]
        tasks = [asyncio.ensure_future(call) for call in (*waiting, running.staged(running.engine.version))]
        await running.all_submitted(8)
        os.kill(process.pid or 0, signal.SIGKILL)
        done, pending = await asyncio.wait(tasks, timeout=30.0)
        assert not pending
        return [task.exception() or Completion for task in done]

    outcomes = running.run(wait_for_the_end())
    assert {type(outcome) for outcome in outcomes} == {EngineError}
    with pytest.raises(EngineError):
        running.sample([running.request((2, 3))])
    running.run(running.engine.shutdown())
    assert not [child for child in multiprocessing.active_children() if "EngineCore" in child.name]
