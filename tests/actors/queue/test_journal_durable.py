"""Laws of the journal's disk: what is flushed, in which order, what an opening reads, and that removing keeps nobody waiting."""

import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from queue_fakes import MemoryFiles, batch_of, fill, journal_on, planned, reopened

from actors.journal import journal as journal_module
from actors.journal.entries import Change, Refused
from actors.journal.files import FolderFiles
from actors.journal.journal import Journal
from actors.queue.growth import FIRST_BYTES, Growth
from actors.queue.rollout_queue import RolloutQueue
from rlvr.errors import QueueError
from rlvr.records import Version

ENTRY = Refused(kind="rollout", counts={"duplicate": 1})


def make_queue(incarnation: int, record: Callable[[Change], None]) -> RolloutQueue:
    return planned([2, 1], max_staleness=1, incarnation=incarnation, record=record, is_forgetful=True)


def opened(files: object, **settings: object) -> tuple[RolloutQueue, Journal]:
    return reopened(files, make_queue, **settings)  # type: ignore[arg-type]


@dataclass
class Flushes:
    """What was written and flushed, in order; `fail` is raised by the next flush of a folder."""

    seen: list[str] = field(default_factory=list)
    fail: OSError | None = None

    def note(self, what: str, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        self.seen.append(f"{what} {path.name}")
        if is_folder and self.fail is not None:
            error, self.fail = self.fail, None
            raise error


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> Flushes:
    found = Flushes()
    fsync, fdatasync, pwrite = os.fsync, os.fdatasync, os.pwrite

    def noted_fsync(descriptor: int) -> None:
        found.note("flush", descriptor)
        fsync(descriptor)

    def noted_fdatasync(descriptor: int) -> None:
        found.note("flush", descriptor)
        fdatasync(descriptor)

    def noted_pwrite(descriptor: int, data: bytes, offset: int) -> int:
        found.note("write", descriptor)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "fdatasync", noted_fdatasync)
    monkeypatch.setattr(os, "pwrite", noted_pwrite)
    return found


def test_each_name_and_each_write_is_flushed_before_the_next_step(tmp_path: Path, flushes: Flushes) -> None:
    files = FolderFiles(tmp_path / "run" / "journal")
    assert flushes.seen == [f"flush {tmp_path.name}", "flush run"]
    flushes.seen.clear()
    files.append(1, b"first", offset=0)
    files.append(1, b"second", offset=5)
    assert flushes.seen == ["flush journal", "write 00000001.journal", "flush 00000001.journal", "write 00000001.journal", "flush 00000001.journal"]
    files.close()


def test_a_name_whose_flush_failed_is_flushed_at_the_retry(tmp_path: Path, flushes: Flushes) -> None:
    files = FolderFiles(tmp_path / "journal")
    flushes.seen.clear()
    flushes.fail = OSError(5, "an I/O error")
    with pytest.raises(OSError, match="an I/O error"):
        files.append(1, b"first", offset=0)
    files.append(1, b"first", offset=0)
    assert flushes.seen == ["flush journal", "flush journal", "write 00000001.journal", "flush 00000001.journal"]
    files.close()


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_removal_is_flushed(tmp_path: Path, flushes: Flushes, is_kept: bool) -> None:
    files = FolderFiles(tmp_path / "journal")
    files.append(1, b"first", offset=0)
    flushes.seen.clear()
    files.remove(1, is_kept=is_kept)
    assert flushes.seen[-1] == "flush journal"
    assert not is_kept or flushes.seen == ["flush journal", "flush archive", "flush journal"]
    files.close()


# --- removal


class Watched(MemoryFiles):
    """Notes reads and removals; a removal waits for the gate."""

    def __init__(self, **settings: bool) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.reads: list[int] = []
        self.at_once = self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self.guard = threading.Lock()

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes:
        with self.guard:
            self.reads.append(number)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.001)  # the round trip of a request
        with self.guard:
            self.at_once -= 1
        return super().read(number, offset=offset, size=size)

    def remove(self, number: int, *, is_kept: bool) -> None:
        assert self.gate.wait(20)
        super().remove(number, is_kept=is_kept)

    def _note(self) -> None:
        """Too many to keep."""


def a_step_on(files: MemoryFiles, **settings: object) -> tuple[RolloutQueue, Journal]:
    queue, journal = opened(files, **settings)
    fill(queue)
    batch_of(queue, 1)
    queue.applied(Version(step=1), generator="g0")
    queue.commit(1)
    return queue, journal


@pytest.mark.parametrize("is_full", [True, False])
def test_nothing_is_removed_before_the_snapshot_behind_it_is_durable(is_full: bool) -> None:
    files = MemoryFiles(is_one_commit_a_segment=True)
    _, journal = opened(files, has_thread=False, retry_s=0.0, give_up_s=0.0)
    for _ in range(3):
        journal.append(ENTRY)
        journal.write()
    before = dict(files.data)
    journal.compact(make_queue(0, lambda _: None).state.snapshot())
    if is_full:
        files.fail = OSError(28, "no space")
        with pytest.raises(QueueError, match="cannot be written"):
            journal.write()
        assert files.data == before
    else:
        journal.write()
        assert list(files.data) == [len(before) + 1]
    journal.release()


def test_removing_keeps_no_answer_waiting_and_is_finished_by_the_close() -> None:
    files = Watched(is_one_commit_a_segment=True)
    queue, journal = a_step_on(files)
    files.gate.clear()
    journal.compact(queue.state.snapshot())
    journal.flushed().result(timeout=20)
    journal.append(ENTRY)
    journal.flushed().result(timeout=20)
    before = len(files.data)
    files.gate.set()
    journal.close()
    assert len(files.data) < before
    assert sorted(files.data) == list(range(min(files.data), max(files.data) + 1))


# --- an opening


def test_an_opening_reads_each_object_once_and_many_at_the_same_time() -> None:
    files = Watched(is_one_commit_a_segment=True)
    _, journal = opened(files, has_thread=False)
    for _ in range(200):
        journal.append(ENTRY)
        journal.write()
    journal.close()
    assert files.reads == []
    queue, journal = opened(files, has_thread=False)
    assert sorted(files.reads) == list(range(1, 202))
    assert files.most_at_once > 1
    assert queue.counts().refused["duplicate"] == 200
    journal.close()


def test_many_objects_make_a_snapshot_due_though_nothing_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_AFTER", 5)
    files = MemoryFiles(is_one_commit_a_segment=True)
    queue, journal = opened(files, has_thread=False)
    for is_due in (False, False, False, False, True):
        assert journal.is_snapshot_due() is is_due
        journal.append(ENTRY)
        journal.write()
    journal.compact(queue.state.snapshot())
    journal.write()
    assert not journal.is_snapshot_due()
    assert len(files.data) == 1
    journal.close()


def test_a_snapshot_is_not_asked_of_files_that_grow() -> None:
    journal = journal_on(MemoryFiles())
    assert not journal.is_snapshot_due()


# --- growth


def test_a_journal_that_no_checkpoint_covers_warns_at_each_doubling(caplog: pytest.LogCaptureFixture) -> None:
    growth = Growth()
    for num_bytes in (1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, 2 * FIRST_BYTES, 3 * FIRST_BYTES):
        growth.look(num_bytes)
    assert [record.args for record in caplog.records] == [(1.0,), (2.0,)]
    growth.committed(10)
    growth.look(FIRST_BYTES)
    assert len(caplog.records) == 3
    assert "run.checkpoint_every_steps" in caplog.text
