"""The queue's service dies and comes back from its journal: what it has acknowledged is there, what was under way goes on."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from queue_fakes import Clock, all_correct, partial_of, rollouts_of

from actors.journal.files import FolderFiles
from actors.queue.records import PutResult, QueueCounts, QueueStatus
from actors.queue.service import QueueService, QueueSetup
from rlvr.config import Config, QueueConfig, RolloutConfig, RunConfig
from rlvr.errors import QueueError
from rlvr.problems import Problem
from rlvr.records import Batch, Lease, Unverified, Version
from rlvr.wire import pack, unpack


def setup_of(folder: Path, *, num_steps: int = 5, max_staleness: int = 1, deterministic: bool = False) -> QueueSetup:
    config = Config(
        run=RunConfig(num_steps=num_steps, deterministic=deterministic),
        rollout=RolloutConfig(group_size=4, max_staleness=0 if deterministic else max_staleness),
        queue=QueueConfig(commit_s=0.0, silence_s=20.0),
    )
    problem = Problem(id="p", prompt="1 + 1?", answer="2")
    return QueueSetup(config=config, problems=(problem,), prompt_ids={"p": (1, 2, 3)}, journal=str(folder / "journal"), tick_s=0.0)


def within_seconds(law: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30.0):
            await law

    asyncio.run(bounded())


def abandon(service: QueueService) -> None:
    """As SIGKILL would leave it: nothing is ended in order. Its writer's thread has nothing left to write."""
    assert service._journal is not None
    service._journal.close()


async def lease_of(service: QueueService, version: str, *, worker: str = "g0", n: int = 4) -> list[Lease]:
    return unpack(await service.lease(n, worker, version), list[Lease])


async def work_off(service: QueueService, leases: list[Lease], version: Version) -> None:
    for lease in leases:
        await service.put("g0", pack([replace_version(rollout, version) for rollout in rollouts_of(lease, version=version.step)]))
    work = unpack(await service.lease_unverified(99, "v0"), list[Unverified])
    await service.put_verdicts("v0", pack(all_correct(work)))


def replace_version(rollout: Any, version: Version) -> Any:
    return replace(rollout, spans=tuple(replace(span, version=version) for span in rollout.spans))


async def train(service: QueueService, step: int, *, lineage: int = 0) -> Batch:
    version = Version(lineage=lineage, step=step - 1)
    await work_off(service, await lease_of(service, str(version)), version)
    return unpack(await service.next_batch(step, lineage) or b"", Batch)


async def ids_of(service: QueueService, step: int, lineage: int) -> list[str]:
    batch = unpack(await service.next_batch(step, lineage) or b"", Batch)
    assert (batch.step, batch.lineage) == (step, lineage)
    return [judged.rollout.id for judged in batch.rollouts]


def test_work_in_flight_survives_the_queue_and_is_accepted_once(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        first = await train(service, 1)
        (lease,) = await lease_of(service, "0.1")
        await service.put("g0", pack(rollouts_of(lease, version=1)[:1]))
        before = await service.counts()
        abandon(service)
        service = QueueService(pack(setup_of(tmp_path)))
        assert unpack(await service.counts(), QueueCounts) == unpack(before, QueueCounts)
        status = unpack(await service.status(), QueueStatus)
        assert (status.incarnation, status.lineage, status.reached_step, status.journal.segments) == (1, 0, 1, 2)
        assert [(found.id, found.worker, found.members) for found in status.leases] == [(lease.id, "g0", 3)]
        assert unpack(await service.next_batch(1, 0) or b"", Batch) == first
        results = unpack(await service.put("g0", pack(rollouts_of(lease, version=1))), list[PutResult])
        assert [result.refused for result in results] == ["duplicate", None, None, None]
        abandon(service)

    within_seconds(law())


def test_after_a_roll_back_the_same_batches_are_handed_out_once_more_and_nothing_is_leased_before(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        ids = {}
        for step in (1, 2, 3):
            ids[step] = [judged.rollout.id for judged in (await train(service, step)).rollouts]
            await service.applied("g0", f"0.{step}")
        await service.commit(1)
        for lineage in (1, 2):
            abandon(service)
            service = QueueService(pack(setup_of(tmp_path)))
            assert await service.roll_back(1) == lineage
            with pytest.raises(QueueError, match="lineage"):
                await service.next_batch(2, lineage - 1)  # a learner that should be dead
            for step in (2, 3):
                assert await lease_of(service, "0.3") == []
                assert await ids_of(service, step, lineage) == ids[step]
                assert await ids_of(service, step, lineage) == ids[step]
            counts = unpack(await service.counts(), QueueCounts)
            assert (counts.consumed, counts.accepted, counts.lineage) == (12, 12, lineage)
            assert sum(counts.slots.values()) <= counts.capacity + counts.taken_again
        with pytest.raises(QueueError, match="cannot be rolled back to step 0"):
            await service.roll_back(0)
        assert await lease_of(service, "1.3") == []  # their slots are taken again, and come back with weights of this lineage alone
        await service.applied("g0", "2.2")
        assert [lease.step for lease in await lease_of(service, "2.2")] == [4]
        abandon(service)

    within_seconds(law())


def test_a_commit_takes_covered_segments_away_and_the_rest_of_the_run_goes_on(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        for step in (1, 2, 3):
            await train(service, step)
            await service.applied("g0", f"0.{step}")
            await service.commit(step)
        abandon(service)
        assert len(FolderFiles(tmp_path / "journal").segments()) == 1
        service = QueueService(pack(setup_of(tmp_path)))
        assert (await train(service, 4)).step == 4
        abandon(service)

    within_seconds(law())


def test_a_worker_that_does_not_come_back_loses_its_leases_after_its_silence(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        await lease_of(service, "0.0")
        abandon(service)
        clock = Clock()
        service = QueueService(pack(setup_of(tmp_path)), clock)
        watch = asyncio.ensure_future(service.run())
        while unpack(await service.status(), QueueStatus).leases:
            clock.now += 0.5
            await service.keep_alive()
            await asyncio.sleep(0)
        assert 20.0 <= clock.now <= 25.0
        await service.close()
        await watch

    within_seconds(law())


def test_a_worker_that_is_started_anew_under_an_old_name_does_not_inherit_its_leases(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        await lease_of(service, "0.0")
        abandon(service)
        service = QueueService(pack(setup_of(tmp_path)))
        await service.expect("g0", "generator")
        assert unpack(await service.status(), QueueStatus).leases == ()
        abandon(service)

    within_seconds(law())


def test_a_lease_whose_answer_never_arrived_ends_with_the_next_question(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (kept,) = await lease_of(service, "0.0", n=2)
        (unheard,) = await lease_of(service, "0.0", n=2)
        (again,) = unpack(await service.lease(2, "g0", "0.0", 0.0, [kept.id]), list[Lease])
        assert again.step == unheard.step
        assert {lease.id for lease in unpack(await service.status(), QueueStatus).leases} == {kept.id, again.id}
        abandon(service)

    within_seconds(law())


def test_partials_cross_the_wire_and_a_restart(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0")
        partials = [partial_of(rollout_id, (Version(), 3)) for rollout_id in lease.rollout_ids[:2]]
        assert await service.hand_back("g0", lease.id, pack(partials)) == 4
        abandon(service)
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0", worker="g1")
        assert [partial.num_tokens for partial in lease.partials] == [3, 3]
        assert await service.hand_back("g1", lease.id, b"") == 4
        abandon(service)

    within_seconds(law())


def test_an_interrupted_run_keeps_what_it_holds_and_a_finished_one_does_not(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease)[:3]))
        assert unpack(await service.close(False), QueueCounts).held == 3
        service = QueueService(pack(setup_of(tmp_path)))
        assert len((await train(service, 1)).rollouts) == 4
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease, version=0)[:3]))
        counts = unpack(await service.close(True), QueueCounts)
        assert (counts.held, counts.dropped["shutdown"], counts.consumed) == (0, counts.accepted - 4, 4)
        assert counts.accepted > 4

    within_seconds(law())


def test_deterministic_mode_samples_an_incomplete_step_again_whole_with_the_same_seeds(tmp_path: Path) -> None:
    async def law() -> None:
        setup = setup_of(tmp_path, deterministic=True)
        service = QueueService(pack(setup))
        (lease,) = await lease_of(service, "0.0")
        await service.put("g0", pack(rollouts_of(lease)[:3]))
        abandon(service)
        service = QueueService(pack(setup))
        counts = unpack(await service.counts(), QueueCounts)
        assert (counts.held, counts.dropped["incomplete"]) == (0, 3)
        (again,) = await lease_of(service, "0.0")
        assert again.seeds == lease.seeds
        assert set(again.rollout_ids).isdisjoint(lease.rollout_ids)
        await work_off(service, [again], Version())  # complete, though nobody has asked for it yet
        abandon(service)
        service = QueueService(pack(setup))
        assert await ids_of(service, 1, 0) == list(again.rollout_ids)
        abandon(service)

    within_seconds(law())


def test_counters_go_on_where_the_dead_queue_left_them(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        await train(service, 1)
        abandon(service)
        for _ in range(2):
            service = QueueService(pack(setup_of(tmp_path)))
            collectors = service._metrics.registry.collectors
            assert collectors.get_sample_value("rlvr_rollouts_accepted_total") == 4.0
            assert collectors.get_sample_value("rlvr_rollouts_trained_total") == 4.0
            assert await service.next_batch(1, 0) is not None
            service._show()
            assert collectors.get_sample_value("rlvr_rollouts_trained_total") == 4.0
            abandon(service)
        assert collectors.get_sample_value("rlvr_queue_incarnation") == 2.0

    within_seconds(law())


def test_a_corrupt_journal_is_not_opened_and_the_error_names_the_place(tmp_path: Path) -> None:
    async def law() -> None:
        service = QueueService(pack(setup_of(tmp_path)))
        await train(service, 1)
        abandon(service)
        segment = tmp_path / "journal" / "00000001.journal"
        data = bytearray(segment.read_bytes())
        data[200] ^= 1
        segment.write_bytes(data)
        with pytest.raises(QueueError, match="segment 00000001 is corrupt at byte"):
            QueueService(pack(setup_of(tmp_path)))
        assert segment.read_bytes() == data
        assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == ["00000001.journal", "lock"]

    within_seconds(law())
