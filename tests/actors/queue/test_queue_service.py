"""The queue as a service, in one event loop: long polls, heartbeats, expiry, metrics."""

import asyncio
import urllib.request
from collections.abc import Coroutine
from typing import Any

import pytest
from msgspec.structs import replace
from queue_fakes import Clock, all_correct, all_of_kind, rollouts_of

from actors.queue.records import PutResult, QueueCounts, QueueStatus
from actors.queue.service import QueueService, QueueSetup
from rlvr.config import Config, RolloutConfig, RunConfig
from rlvr.errors import Closed, QueueError, WireError
from rlvr.problems import Problem
from rlvr.records import Batch, Lease, Unverified, VerdictKind
from rlvr.wire import pack, unpack

PROBLEM = Problem(id="p", prompt="1 + 1?", answer="2")


def setup_of(*, num_steps: int = 3, group_size: int = 4, max_staleness: int = 0) -> QueueSetup:
    config = Config(run=RunConfig(num_steps=num_steps), rollout=RolloutConfig(group_size=group_size, max_staleness=max_staleness))
    return QueueSetup(config=config, problems=(PROBLEM,), prompt_ids={"p": (1, 2, 3)}, tick_s=0.01)


def within_seconds(law: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20.0):
            await law

    asyncio.run(bounded())


async def leased(service: QueueService, version: int, *, wait_s: float = 0.0) -> list[Lease]:
    return unpack(await service.lease(4, "g0", f"0.{version}", wait_s), list[Lease])


async def train(service: QueueService, step: int) -> Batch:
    """One step of a whole run, on-policy."""
    (lease,) = await leased(service, step - 1)
    results = unpack(await service.put("g0", pack(rollouts_of(lease, version=step - 1))), list[PutResult])
    assert all(result.is_accepted for result in results)
    work = unpack(await service.lease_unverified(9, "v0"), list[Unverified])
    await service.put_verdicts("v0", pack(all_correct(work)))
    return unpack(await service.next_batch(step, 0) or b"", Batch)


def test_a_long_poll_is_answered_as_soon_as_there_is_something() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        async with asyncio.TaskGroup() as tasks:
            answers = tasks.create_task(service.lease_unverified(9, "v0", 10.0))
            batch = tasks.create_task(service.next_batch(1, 0, 10.0))
            (lease,) = await leased(service, 0)
            await service.put("g0", pack(rollouts_of(lease)))
            work = unpack(await answers, list[Unverified])
            assert {answer.gold for answer in work} == {"2"}
            await service.put_verdicts("v0", pack(all_correct(work)))
            assert len(unpack(await batch or b"", Batch).rollouts) == 4

    within_seconds(law())


def test_a_generator_that_waits_for_work_gets_it_when_it_has_applied_the_next_weights() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await train(service, 1)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(leased(service, 0, wait_s=10.0))
            await asyncio.sleep(0)
            assert not waiting.done()
            await service.applied("g0", "0.1")
            (lease,) = await waiting
            assert lease.step == 2

    within_seconds(law())


def test_a_poll_without_an_answer_ends_after_its_wait() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await train(service, 1)
        assert await leased(service, 0, wait_s=0.01) == []
        assert await service.next_batch(2, 0, 0.01) is None
        assert unpack(await service.lease_unverified(1, "v0", 0.01), list[Unverified]) == []

    within_seconds(law())


def test_all_ranks_that_ask_for_a_batch_get_the_same_frame() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await train(service, 1)
        assert await service.next_batch(1, 0) == await service.next_batch(1, 0)

    within_seconds(law())


def test_closing_raises_closed_at_every_waiter_and_ends_the_watch() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await train(service, 1)
        watch = asyncio.ensure_future(service.run())
        polls = [service.lease(1, "g0", "0.0", 10.0), service.lease_unverified(1, "v0", 10.0), service.next_batch(2, 0, 10.0)]
        waiting = [asyncio.ensure_future(poll) for poll in polls]
        await asyncio.sleep(0)
        counts = unpack(await service.close(), QueueCounts)
        assert (counts.accepted, counts.consumed, counts.held) == (4, 4, 0)
        for poll in waiting:
            with pytest.raises(Closed):
                await poll
        await watch

    within_seconds(law())


@pytest.mark.parametrize(("gone", "message"), [("g0", "no generator"), ("v0", "no verifier")])
def test_a_batch_that_cannot_fill_is_an_error_once_nobody_replaces_the_last_producer(gone: str, message: str) -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(replace(setup_of(), tick_s=0.0)), clock)
        watch = asyncio.ensure_future(service.run())
        await service.beat("g0", "generator")
        await service.beat("v0", "verifier")
        waiting = asyncio.ensure_future(service.next_batch(1, 0, 10.0))
        await asyncio.sleep(0)
        await service.lost(gone)
        while not waiting.done():
            clock.now += 0.5
            await service.beat(*(("v0", "verifier") if gone == "g0" else ("g0", "generator")))
            await asyncio.sleep(0)
        with pytest.raises(QueueError, match=message):
            await waiting
        assert 30.0 <= clock.now <= 33.0
        await service.close()
        await watch

    within_seconds(law())


@pytest.mark.parametrize(("worker", "role"), [("g0", "generator"), ("v0", "verifier")])
def test_a_worker_that_was_replaced_is_refused_whatever_it_still_brings(worker: str, role: str) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        (lease,) = await leased(service, 0)
        await service.lost(worker)
        with pytest.raises(Closed, match="given up and replaced"):
            await service.beat(worker, role)
        if worker == "g0":
            with pytest.raises(Closed):
                await service.put("g0", pack(rollouts_of(lease)))
        await service.expect(worker, role)
        await service.beat(worker, role)

    within_seconds(law())


def test_nothing_is_acknowledged_while_the_controller_is_silent_for_too_long() -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(replace(setup_of(), tick_s=0.0)), clock)
        (lease,) = await leased(service, 0)
        await service.keep_alive()
        clock.now += 25.0
        handing_in = asyncio.ensure_future(service.put("g0", pack(rollouts_of(lease))))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not handing_in.done()
        await service.status()
        assert not handing_in.done()
        await service.keep_alive()
        assert all(result.is_accepted for result in unpack(await handing_in, list[PutResult]))

    within_seconds(law())


def test_a_batch_waits_for_a_producer_that_is_being_started_in_place_of_a_lost_one() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await service.beat("g0", "generator")
        await service.expect("g1", "generator")
        await service.lost("g0")
        assert await service.next_batch(1, 0, 0.01) is None

    within_seconds(law())


def test_a_worker_that_is_silent_for_too_long_loses_its_leases_and_a_batch_without_producers_fails() -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(replace(setup_of(), tick_s=0.0)), clock)
        (lease,) = await leased(service, 0)
        watch = asyncio.ensure_future(service.run())
        waiting = asyncio.ensure_future(service.next_batch(1, 0, 10.0))
        while not waiting.done():
            clock.now += 0.5
            await service.beat("v0", "verifier")
            await asyncio.sleep(0)
        with pytest.raises(QueueError, match="no generator"):
            await waiting
        assert clock.now >= 30.0
        late = unpack(await service.put("g0", pack(rollouts_of(lease))), list[PutResult])
        assert {result.refused for result in late} == {"gone_lease"}
        assert len(await leased(service, 0)) == 1  # back again, it gets work again
        await service.close()
        await watch

    within_seconds(law())


def test_nobody_was_silent_while_the_queue_itself_stood_still() -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(replace(setup_of(), tick_s=0.0)), clock)
        (lease,) = await leased(service, 0)
        watch = asyncio.ensure_future(service.run())
        await asyncio.sleep(0)
        clock.now = 100.0
        for _ in range(10):
            await asyncio.sleep(0)
        results = unpack(await service.put("g0", pack(rollouts_of(lease))), list[PutResult])
        assert all(result.is_accepted for result in results)
        await service.close()
        await watch

    within_seconds(law())


def test_a_poll_that_a_dead_worker_has_left_behind_gets_nothing() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        await train(service, 1)
        generator = asyncio.ensure_future(leased(service, 0, wait_s=10.0))
        verifier = asyncio.ensure_future(service.lease_unverified(9, "v0", 10.0))
        await asyncio.sleep(0)
        for name in ("g0", "v0"):
            await service.lost(name)
            await service.expect(name, "generator" if name == "g0" else "verifier")
        (lease,) = await leased(service, 1)  # its successor, under the same name
        await service.put("g0", pack(rollouts_of(lease, version=1)))
        assert (await generator, unpack(await verifier, list[Unverified])) == ([], [])
        assert len(unpack(await service.lease_unverified(9, "v0"), list[Unverified])) == 4

    within_seconds(law())


def test_the_watch_gives_expired_work_to_whoever_waits_for_it() -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(setup_of()), clock)
        await leased(service, 0)
        watch = asyncio.ensure_future(service.run())
        waiting = asyncio.ensure_future(service.lease(4, "g1", "0.0", 10.0))
        await asyncio.sleep(0)
        clock.now = 600.0
        assert len(unpack(await waiting, list[Lease])) == 1
        await service.close()
        await watch

    within_seconds(law())


def test_a_corrupt_frame_is_refused_whole() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        (lease,) = await leased(service, 0)
        frame = bytearray(pack(rollouts_of(lease)))
        frame[-1] ^= 1
        with pytest.raises(WireError):
            await service.put("g0", bytes(frame))
        assert unpack(await service.counts(), QueueCounts).accepted == 0

    within_seconds(law())


def test_the_metrics_say_what_the_counts_say() -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of()))
        port = await service.serve_metrics()
        await train(service, 1)
        (lease,) = await leased(service, 0) or await leased(service, 1)
        await service.put("g0", pack(rollouts_of(lease, version=1)))
        work = unpack(await service.lease_unverified(1, "v0"), list[Unverified])
        await service.put_verdicts("v0", pack(all_of_kind(work, VerdictKind.TIMEOUT)))
        status = unpack(await service.status(), QueueStatus)
        assert (status.metrics_port, [producer.name for producer in status.producers]) == (port, ["g0", "v0"])
        await service.close()
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        shown = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("rlvr_"))
        counts = unpack(await service.counts(), QueueCounts)
        assert float(shown["rlvr_rollouts_accepted_total"]) == counts.accepted == 8
        assert float(shown["rlvr_rollouts_trained_total"]) == counts.consumed == 4
        assert float(shown['rlvr_rollouts_dropped_total{reason="excluded"}']) == 1
        assert float(shown['rlvr_rollouts_dropped_total{reason="shutdown"}']) == 3
        assert float(shown["rlvr_trained_completion_tokens_count"]) == 4
        assert float(shown["rlvr_slots_limit"]) == 4
        service.close_metrics()

    within_seconds(law())
