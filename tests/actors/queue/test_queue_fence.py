"""The queue while its controller is silent, and while its journal is not written: nothing changes, nothing is told."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from queue_fakes import Clock, all_correct, rollouts_of
from test_queue_restart import abandon, lease_of, setup_of, train, within_seconds

from actors.journal.files import FolderFiles
from actors.queue.fence import FENCE_S
from actors.queue.records import PutResult, QueueCounts
from actors.queue.service import QueueService
from rlvr.errors import Closed
from rlvr.records import Unverified
from rlvr.wire import pack, unpack

Call = Callable[[], Awaitable[Any]]


class Scene:
    """A queue in mid-run, and every call that changes something."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.service = QueueService(pack(setup_of(folder)), clock)

    async def prepare(self) -> dict[str, Call]:
        """Each call would be answered at once."""
        service = self.service
        for step in (1, 2):
            await train(service, step)
            await service.applied("g0", f"0.{step}")
        (first,) = await lease_of(service, "0.2", n=2)
        (second,) = await lease_of(service, "0.2", n=2)
        (third,) = await lease_of(service, "0.2", n=1)
        await service.put("g0", pack(rollouts_of(second, version=2)))
        work = unpack(await service.lease_unverified(1, "v0"), list[Unverified])
        await service._durable()
        return {
            "put": lambda: service.put("g0", pack(rollouts_of(first, version=2))),
            "put_verdicts": lambda: service.put_verdicts("v0", pack(all_correct(work))),
            "hand_back": lambda: service.hand_back("g0", third.id),
            "lease": lambda: service.lease(1, "g1", "0.2"),
            "lease_unverified": lambda: service.lease_unverified(1, "v1"),
            "commit": lambda: service.commit(1),
            "roll_back": lambda: service.roll_back(1),
        }

    def bytes(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "journal").glob("*.journal")}


CALLS = ("put", "put_verdicts", "hand_back", "lease", "lease_unverified", "commit", "roll_back")


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_changed_or_written_while_the_controller_is_silent(tmp_path: Path, name: str) -> None:
    async def law() -> None:
        clock = Clock()
        scene = Scene(tmp_path, clock)
        calls = await scene.prepare()
        service = scene.service
        await service.keep_alive()
        clock.now += FENCE_S + 1
        before, counts = scene.bytes(), await service.counts()
        call = asyncio.ensure_future(calls[name]())
        await turns()
        assert not call.done()
        assert await service.counts() == counts
        assert scene.bytes() == before
        await service.keep_alive()
        await call
        assert await service.counts() != counts or name == "commit"
        abandon(service)

    within_seconds(law())


def test_a_long_poll_from_before_gets_nothing_while_the_controller_is_silent(tmp_path: Path) -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(setup_of(tmp_path)), clock)
        batch = asyncio.ensure_future(service.next_batch(1, 0, 10.0))
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease)))
        work = unpack(await service.lease_unverified(9, "v0"), list[Unverified])
        waiting = asyncio.ensure_future(service.lease(4, "g0", "0.0", 10.0))
        await turns()
        service._queue.put_verdicts(all_correct(work))
        clock.now += FENCE_S + 1
        service._ring_all()
        await turns()
        assert not batch.done()
        assert unpack(await service.counts(), QueueCounts).consumed == 0
        await service.keep_alive()
        assert await batch is not None
        waiting.cancel()
        abandon(service)

    within_seconds(law())


def test_no_lease_expires_and_no_worker_is_silent_while_the_controller_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(setup_of(tmp_path)), clock)
        await lease_of(service, "0.0")
        watch = asyncio.ensure_future(service.run())
        before = await service.counts()
        for _ in range(200):
            clock.now += 10.0
            await turns(2)
        assert await service.counts() == before
        assert caplog.text.count("the controller is silent") == 1
        await service.close(False)
        await watch

    within_seconds(law())


def test_a_restarted_queue_whose_controller_stays_silent_tells_nobody_anything(tmp_path: Path) -> None:
    async def law() -> None:
        clock = Clock()
        service = QueueService(pack(setup_of(tmp_path)), clock)
        (lease,) = await lease_of(service, "0.0")
        abandon(service)
        service = QueueService(pack(setup_of(tmp_path)), clock)
        clock.now += FENCE_S + 1
        put = asyncio.ensure_future(service.put("g0", pack(rollouts_of(lease))))
        await turns()
        assert not put.done()
        await service.keep_alive()
        assert all(result.is_accepted for result in unpack(await put, list[PutResult]))
        abandon(service)

    within_seconds(law())


# --- durable before it is told


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is clear, the journal's files block at an append."""
    is_open = threading.Event()
    is_open.set()
    append = FolderFiles.append

    def gated(self: FolderFiles, number: int, data: bytes, *, offset: int) -> None:
        assert is_open.wait(20)
        append(self, number, data, offset=offset)

    monkeypatch.setattr(FolderFiles, "append", gated)
    return is_open


@pytest.mark.parametrize("name", ["put", "put_verdicts", "hand_back", "commit", "roll_back"])
def test_no_answer_is_given_before_it_is_durable(tmp_path: Path, gate: threading.Event, name: str) -> None:
    async def law() -> None:
        scene = Scene(tmp_path, Clock())
        call = (await scene.prepare())[name]
        gate.clear()
        answer = asyncio.ensure_future(call())
        await asyncio.wait([answer], timeout=0.2)
        assert not answer.done()
        gate.set()
        await answer
        abandon(scene.service)

    within_seconds(law())


def test_no_batch_is_handed_out_before_that_is_durable(tmp_path: Path, gate: threading.Event) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease)))
        await service.put_verdicts("v0", pack(all_correct(unpack(await service.lease_unverified(9, "v0"), list[Unverified]))))
        gate.clear()
        batch = asyncio.ensure_future(service.next_batch(1, 0))
        await asyncio.wait([batch], timeout=0.2)
        assert not batch.done()
        gate.set()
        assert await batch is not None
        abandon(service)

    within_seconds(law())


# --- the end, and calls that are made again


def test_a_queue_may_be_closed_twice_and_calls_around_it_hear_closed(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0")
        waiting = asyncio.ensure_future(service.next_batch(1, 0, 10.0))
        await turns()
        first = await service.close(True)
        assert await service.close(True) == first
        await service._durable()
        with pytest.raises(Closed):
            await waiting
        for call in (service.put("g0", pack(rollouts_of(lease))), service.commit(0), service.roll_back(0), service.next_batch(1, 0)):
            with pytest.raises(Closed):
                await call
        assert await service.lost("g0") == 0

    within_seconds(law())


def test_a_whole_lease_that_is_handed_in_again_is_a_duplicate_also_after_a_restart(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease)))
        for _ in range(2):
            results = unpack(await service.put("g0", pack(rollouts_of(lease))), list[PutResult])
            assert {result.refused for result in results} == {"duplicate"}
            abandon(service)
            service = QueueService(pack(setup_of(tmp_path)))
        abandon(service)

    within_seconds(law())


def test_a_lost_worker_is_refused_though_the_queue_has_never_heard_of_it(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        assert await service.lost("g7") == 0
        with pytest.raises(Closed, match="given up and replaced"):
            await service.beat("g7", "generator")
        abandon(service)

    within_seconds(law())
