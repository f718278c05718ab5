"""Laws of a journal that two processes want: one of them writes, and the other one says so and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from queue_fakes import MemoryFiles, journal_on, planned, reopened

from actors.journal.entries import Applied, Change, Refused
from actors.journal.files import FolderFiles, ObjectFiles, SegmentFiles, TakenOver
from actors.queue.rollout_queue import RolloutQueue
from rlvr.errors import QueueError, StoreError
from rlvr.store import FolderStore

ENTRY = Refused(kind="rollout", counts={"duplicate": 1})


def make_queue(incarnation: int, record: Callable[[Change], None]) -> RolloutQueue:
    return planned([2, 1], max_staleness=1, incarnation=incarnation, record=record, is_forgetful=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.journal")}


def test_a_folder_has_one_writer_and_a_second_one_is_refused_by_name_until_the_first_ends(tmp_path: Path) -> None:
    _, journal = reopened(FolderFiles(tmp_path), make_queue)  # type: ignore[arg-type]
    before = bytes_of(tmp_path)
    second = FolderFiles(tmp_path, lock_wait_s=0.1)
    with pytest.raises(QueueError, match=r"held by another process \(pid \d+ on "):
        journal_on(second).inspect()  # type: ignore[arg-type]
    assert bytes_of(tmp_path) == before
    journal.close()
    _, journal = reopened(second, make_queue)  # type: ignore[arg-type]
    journal.close()


class NoLock(FolderFiles):
    """A network volume whose locks mean nothing to other hosts."""

    def hold(self) -> None:
        """Believes it."""


@pytest.mark.parametrize("place", ["folder", "objects"])
def test_who_is_taken_over_writes_nothing_more_and_what_the_other_one_wrote_stays(tmp_path: Path, place: str) -> None:
    def files() -> SegmentFiles:
        return NoLock(tmp_path) if place == "folder" else ObjectFiles(FolderStore(tmp_path))

    _, old = reopened(files(), make_queue, has_thread=False)  # type: ignore[arg-type]
    old.append(ENTRY)
    old.write()
    _, new = reopened(files(), make_queue, has_thread=False)  # type: ignore[arg-type]
    new.append(ENTRY)
    new.write()
    before = bytes_of(tmp_path)
    old._looked_at = float("-inf")  # LOOK_S ago
    old.append(ENTRY)
    with pytest.raises(TakenOver, match="another process has taken over"):
        old.write()
    assert bytes_of(tmp_path) == before
    new.append(ENTRY)
    new.write()
    for journal in (old, new):
        journal.release()
    queue, third = reopened(files(), make_queue, has_thread=False)  # type: ignore[arg-type]
    assert queue.counts().refused["duplicate"] == 3
    third.close()


@pytest.mark.parametrize("place", ["folder", "objects"])
def test_a_segment_is_never_written_over(tmp_path: Path, place: str) -> None:
    files: SegmentFiles = FolderFiles(tmp_path) if place == "folder" else ObjectFiles(FolderStore(tmp_path))
    (tmp_path / "00000003.journal").write_bytes(b"of somebody else")
    with pytest.raises(TakenOver, match="00000003"):
        files.append(3, b"ours", offset=0)
    assert (tmp_path / "00000003.journal").read_bytes() == b"of somebody else"


def test_a_write_of_ours_whose_answer_was_lost_is_no_take_over(tmp_path: Path) -> None:
    files = ObjectFiles(FolderStore(tmp_path))
    for _ in range(2):
        files.append(1, b"ours", offset=0)


def test_an_overtaken_journal_fails_for_everybody_who_waits_and_for_good() -> None:
    files = MemoryFiles()
    _, journal = reopened(files, make_queue)
    files.data[2] = files.data[1]
    journal._looked_at = float("-inf")
    journal.append(Applied(lineage=0, step=0, generator="g"))
    with pytest.raises(QueueError, match="taken over"):
        journal.flushed().result(timeout=20)
    with pytest.raises(QueueError, match="taken over"):
        journal.append(ENTRY)
    journal.close()


def test_nothing_is_written_while_it_is_held() -> None:
    files, held = MemoryFiles(), [True]
    _, journal = reopened(files, make_queue, is_held=lambda: held[0])
    before = dict(files.data)
    journal.append(ENTRY)
    answer = journal.flushed()
    with pytest.raises(TimeoutError):
        answer.result(timeout=0.3)
    assert files.data == before
    held[0] = False
    answer.result(timeout=20)
    assert files.data != before
    journal.close()


def test_a_missing_segment_is_named_whether_its_incarnation_is_there_or_not() -> None:
    files = MemoryFiles()
    for _ in range(3):
        _, journal = reopened(files, make_queue, has_thread=False, segment_bytes=100)
        for _ in range(3):
            journal.append(ENTRY)
            journal.write()
        journal.close()
    of_second = [number for number, data in files.data.items() if b"\xabincarnation\x01" in data]
    assert len(of_second) > 2
    for missing in ([of_second[1]], of_second):
        disk = {number: data for number, data in files.data.items() if number not in missing}
        with pytest.raises(QueueError, match=f"segment {missing[0]:08d}.* is missing"):
            reopened(MemoryFiles(data=dict(disk)), make_queue)


def test_a_listing_that_fails_for_a_while_is_asked_again() -> None:
    class Moody(MemoryFiles):
        failures = 0

        def segments(self) -> list[tuple[int, int]]:
            if self.failures:
                self.failures -= 1
                raise StoreError("busy")
            return super().segments()

    files = Moody()
    _, journal = reopened(files, make_queue, has_thread=False, retry_s=0.0)
    files.failures = 3
    journal.append(ENTRY)
    journal._looked_at = float("-inf")
    journal.write()
    assert journal.flushed().done()
    assert files.failures == 0
    journal.close()
