"""Laws of the journal: what is torn, what is corrupt, when an answer may be given, what may be removed, and what a full disk does."""

import errno
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from queue_fakes import Counting, MemoryFiles, batch_of, fill, journal_on, planned, reopened, rollouts_of, verify_all

from actors.journal.entries import FORMAT, Accepted, Applied, Change, Group, Header, RolledBack
from actors.journal.files import FolderFiles, ObjectFiles, SegmentFiles
from actors.journal.journal import Journal
from actors.queue.opening import replay
from actors.queue.rollout_queue import RolloutQueue
from rlvr.errors import QueueError, UserError
from rlvr.records import JudgedRollout, Version
from rlvr.store import FolderStore
from rlvr.wire import HEADER_BYTES, pack, unpack


def make_queue(incarnation: int, record: Callable[[Change], None]) -> RolloutQueue:
    return planned([2, 1], max_staleness=1, incarnation=incarnation, record=record, is_forgetful=True)


def a_run(files: MemoryFiles, *, num_steps: int = 2, **settings: object) -> tuple[RolloutQueue, Journal]:
    """Some steps trained, the next one held."""
    queue, journal = reopened(files, make_queue, has_thread=False, **settings)
    for step in range(1, num_steps + 1):
        fill(queue, applied=step - 1)
        batch_of(queue, step)
        queue.applied(Version(step=step), generator="g0")
        journal.write()
    fill(queue, applied=num_steps)
    journal.write()
    return queue, journal


def bring_back(queue: RolloutQueue, journal: Journal, step: int) -> None:
    """As the service does before it asks for an old batch."""
    absent = queue.absent(step)
    if absent:
        queue.recalled(step, [judged for judged in journal.recall(absent) if isinstance(judged, JudgedRollout)])


def frames(data: bytes) -> list[int]:
    """Where each frame of a segment begins."""
    edges, offset = [], 0
    while offset < len(data):
        edges.append(offset)
        offset += HEADER_BYTES + int.from_bytes(data[offset + 1 : offset + 5], "little")
    return edges


# --- what an opening finds


def test_an_empty_place_is_a_new_run_and_each_opening_is_the_next_incarnation() -> None:
    files = MemoryFiles()
    for incarnation in range(3):
        _, journal = reopened(files, make_queue, has_thread=False)
        journal.close()
        assert journal.incarnation == incarnation
    headers = [unpack(data, Header) for _, data in sorted(files.data.items())]
    assert [(header.format, header.run, header.segment, header.incarnation) for header in headers] == [
        (FORMAT, "a run", segment, segment - 1) for segment in (1, 2, 3)
    ]


def test_a_replayed_queue_is_the_one_that_died() -> None:
    files = MemoryFiles()
    before, journal = a_run(files)
    journal.close()
    after, _ = reopened(files, make_queue, has_thread=False)
    assert after.counts() == before.counts()
    assert after.state.snapshot() == before.state.snapshot()


def test_a_snapshot_restores_what_a_replay_of_everything_does() -> None:
    whole, compacted = MemoryFiles(), MemoryFiles()
    for files in (whole, compacted):
        queue, journal = a_run(files)
        queue.commit(1)
        if files is compacted:
            journal.compact(queue.state.snapshot())
        lease = queue.leases(9, generator="g1", applied=Version(step=2))
        journal.close()
        assert lease is not None
    first, second = (reopened(files, make_queue, has_thread=False)[0] for files in (whole, compacted))
    assert first.state.snapshot() == second.state.snapshot()
    assert first.counts() == second.counts()


@pytest.mark.parametrize("cut", [1, 5, 9, 28])
def test_a_torn_tail_is_cut_and_counted_and_nothing_before_it_is_lost(cut: int) -> None:
    files = MemoryFiles()
    before, journal = a_run(files)
    told = before.counts()
    batch_of(before, 3)
    length = len(files.data[1])
    journal.close()
    files.data[1] = files.data[1][: length + cut]
    after, journal = reopened(files, make_queue, has_thread=False)
    assert journal.facts().torn_bytes == cut
    assert len(files.data[1]) == length
    assert after.counts() == told


def test_a_segment_without_a_whole_header_is_removed() -> None:
    files = MemoryFiles()
    before, journal = a_run(files)
    journal.close()
    for torn in (b"", pack(Group(serial=1))[:7]):
        files.data[2] = torn
        after, _ = reopened(files, make_queue, has_thread=False)
        assert after.counts() == before.counts()
        assert 2 not in files.data
        files.data = {1: files.data[1]}


@pytest.mark.parametrize("where", ["length", "checksum", "payload"])
def test_a_corrupt_middle_is_an_error_with_its_offset_and_nothing_is_touched(where: str) -> None:
    files = MemoryFiles()
    _, journal = a_run(files)
    journal.close()
    data = bytearray(files.data[1])
    offset = frames(bytes(data))[3]
    data[offset + {"length": 3, "checksum": 6, "payload": HEADER_BYTES + 4}[where]] ^= 0x40
    files.data[1] = bytes(data)
    found = dict(files.data)
    with pytest.raises(QueueError, match=f"segment 00000001 is corrupt at byte {offset}"):
        reopened(files, make_queue)
    assert files.data == found


def test_a_cut_segment_that_is_not_the_newest_is_corrupt() -> None:
    files = MemoryFiles()
    _, journal = a_run(files)
    journal.close()
    _, journal = reopened(files, make_queue, has_thread=False)
    journal.close()
    for kept in (len(files.data[1]) - 1, 0):
        with pytest.raises(QueueError, match="segment 00000001"):
            reopened(MemoryFiles(data={1: files.data[1][:kept], 2: files.data[2]}), make_queue)


def test_a_journal_of_another_format_or_wire_version_is_one_sentence_that_names_both() -> None:
    other = pack({"type": "header", "format": 7, "of": "another shape"})
    files = MemoryFiles(data={1: other})
    with pytest.raises(UserError, match=r"format 7.* reads format 1"):
        reopened(files, make_queue)
    assert files.data == {1: other}
    head = bytes([2]) + other[1:5]
    foreign = head + zlib.crc32(other[HEADER_BYTES:], zlib.crc32(head)).to_bytes(4, "little") + other[HEADER_BYTES:]
    with pytest.raises(UserError, match=r"wire version 2.* reads 1"):
        reopened(MemoryFiles(data={1: foreign}), make_queue)


# --- commits and compaction


def test_segments_are_removed_only_when_a_commit_covers_them() -> None:
    files = MemoryFiles()
    queue, journal = a_run(files, num_steps=8, segment_bytes=2000)
    segments = len(files.data)
    assert segments > 3
    journal.compact(queue.state.snapshot())
    journal.write()
    assert len(files.data) == segments + 1  # nothing is committed
    queue.commit(7)
    journal.compact(queue.state.snapshot())
    journal.write()
    assert len(files.data) < segments
    queue.roll_back(7)
    journal.close()
    after, journal = reopened(files, make_queue, has_thread=False)
    bring_back(after, journal, 8)
    assert batch_of(after, 8).lineage == 1
    with pytest.raises(QueueError, match="cannot be rolled back to step 6"):
        after.roll_back(6)


def test_removed_segments_are_archived_where_that_is_asked() -> None:
    files = MemoryFiles()
    queue, journal = a_run(files, num_steps=4, segment_bytes=2000, keep_segments=True)
    queue.commit(4)
    journal.compact(queue.state.snapshot())
    journal.close()
    assert files.archive
    assert sorted(files.archive | files.data) == list(range(1, max(files.data) + 1))


def test_a_crash_between_any_two_steps_of_a_compaction_loses_nothing() -> None:
    files = MemoryFiles()
    queue, journal = a_run(files, num_steps=8, segment_bytes=2000)
    queue.commit(6)
    journal.write()
    before, tail = len(files.steps), queue.counts()
    journal.compact(queue.state.snapshot())
    journal.close()
    disks = files.steps[before - 1 :]
    assert len(disks) > 3
    newest = max(disks[-1])
    torn = [{**disks[1], newest: disks[1][newest][:size]} for size in range(0, len(disks[1][newest]), 97)]
    for disk in [*disks, *torn]:
        after, journal = reopened(MemoryFiles(data=dict(disk)), make_queue, has_thread=False)
        assert after.counts() == tail
        for step in (7, 8):
            bring_back(after, journal, step)
            assert [judged.rollout.id for judged in batch_of(after, step).rollouts] == list(after.state.snapshot().batches[step - 7].rollout_ids)


# --- acknowledgement and trouble


def test_an_answer_waits_for_its_group_commit_and_many_share_one() -> None:
    class SlowFiles(MemoryFiles):
        gate = threading.Event()

        def append(self, number: int, data: bytes, *, offset: int) -> None:
            if offset:
                assert self.gate.wait(20)
            super().append(number, data, offset=offset)

    files, observer = SlowFiles(), Counting()
    journal = Journal(files, run="", observer=observer, commit_s=0.0)
    journal.inspect()
    assert list(journal.replay()) == []
    journal.open(lineage=0)
    answers = []
    for step in range(50):
        journal.append(Applied(lineage=0, step=step, generator="g"))
        answers.append(journal.flushed())
    assert not any(answer.done() for answer in answers)
    files.gate.set()
    for answer in answers:
        answer.result(timeout=20)
    assert observer.commits <= 2
    assert journal.flushed().done()
    journal.close()


def test_a_full_disk_holds_answers_back_until_there_is_room_and_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half of a write and then no more, as a full one does."""
    room = [0]
    write = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if room[0]:
            room[0] -= 1
            if len(data) > 20:
                return write(descriptor, data[:20], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    observer = Counting()
    journal = Journal(FolderFiles(tmp_path), run="", observer=observer, commit_s=0.0, retry_s=0.01)
    journal.inspect()
    list(journal.replay())
    journal.open(lineage=0)
    monkeypatch.setattr(os, "pwrite", pwrite)
    room[0] = 9
    journal.append(RolledBack(step=0, lineage=1))
    journal.flushed().result(timeout=20)
    journal.close()
    assert observer.failures > 0
    again = Journal(FolderFiles(tmp_path), run="", observer=observer)
    again.inspect()
    assert [entry for entry in again.replay() if isinstance(entry, RolledBack)] == [RolledBack(step=0, lineage=1)]
    assert again.facts().torn_bytes == 0
    again.release()


def test_a_journal_that_cannot_be_written_for_long_is_an_error_for_everybody() -> None:
    files = MemoryFiles()
    journal = journal_on(files, retry_s=0.01, give_up_s=0.05)
    journal.inspect()
    list(journal.replay())
    journal.open(lineage=0)
    files.fail = OSError(errno.EIO, "broken")
    journal.append(Applied(lineage=0, step=0, generator="g"))
    with pytest.raises(QueueError, match="cannot be written"):
        journal.flushed().result(timeout=20)
    with pytest.raises(QueueError, match="cannot be written"):
        journal.check()
    with pytest.raises(QueueError, match="cannot be written"):
        journal.append(Applied(lineage=0, step=0, generator="g"))
    journal.close()


# --- places


@pytest.mark.parametrize("place", ["folder", "objects"])
def test_a_folder_and_an_object_store_hold_the_same_journal(tmp_path: Path, place: str) -> None:
    def files() -> SegmentFiles:
        return FolderFiles(tmp_path / "journal") if place == "folder" else ObjectFiles(FolderStore(tmp_path / "journal"))

    queue, journal = reopened(files(), make_queue)  # type: ignore[arg-type]
    fill(queue)
    held = {judged.rollout.id: judged for judged in batch_of(queue, 1).rollouts}
    journal.flushed().result(timeout=20)
    queue.applied(Version(step=1), generator="g0")
    queue.commit(0)
    journal.compact(queue.state.snapshot())
    journal.close()
    after, journal = reopened(files(), make_queue)  # type: ignore[arg-type]
    assert after.counts() == queue.counts()
    assert {found.rollout.id: found for found in journal.recall(sorted(held))} == held  # type: ignore[union-attr]
    after.commit(1)
    journal.compact(after.state.snapshot())
    journal.close()
    assert all(path.suffix == ".journal" or path.name == "lock" for path in (tmp_path / "journal").iterdir())
    again, journal = reopened(files(), make_queue)  # type: ignore[arg-type]
    assert again.counts() == after.counts()
    journal.close()


def test_an_id_is_accepted_in_one_entry_alone_whatever_was_lost() -> None:
    files = MemoryFiles()
    for _ in range(4):
        queue, journal = reopened(files, make_queue, has_thread=False)
        for lease in queue.leases(2, generator="g0", applied=Version()):
            queue.put(rollouts_of(lease, version=0)[:1])
        journal.write()
        verify_all(queue)
        queue.lost("g0")
        journal._pending.clear()  # dies with what nobody was told of
    reader = journal_on(files)
    reader.inspect()
    ids = [entry.rollout.id for entry in reader.replay() if isinstance(entry, Accepted)]
    assert len(ids) == len(set(ids)) > 3


def test_a_text_that_is_no_unicode_is_kept_as_it_is() -> None:
    files = MemoryFiles()
    queue, journal = reopened(files, make_queue, has_thread=False)
    (first, *_) = queue.leases(2, generator="g0", applied=Version())
    broken = [replace(rollout, text="half a pair: \ud83d") for rollout in rollouts_of(first, version=0)]
    queue.put(broken)
    journal.write()
    assert journal.recall([rollout.id for rollout in broken]) == broken
    journal.close()
    after, _ = reopened(files, make_queue, has_thread=False)
    assert [answer.text for answer in after.lease_unverified(2, verifier="v0")] == [rollout.text for rollout in broken]


def test_a_replay_that_contradicts_itself_is_an_error() -> None:
    files = MemoryFiles()
    _, journal = reopened(files, make_queue, has_thread=False)
    journal.append(RolledBack(step=0, lineage=1))
    queue = make_queue(1, lambda _: None)
    fill(queue)
    (batch,) = [batch_of(queue, 1)]
    journal.append(Accepted(rollout=batch.rollouts[0].rollout))
    journal.close()
    fresh = journal_on(files)
    with pytest.raises(QueueError, match="is not under lease"):
        replay(fresh, make_queue(fresh.inspect(), lambda _: None))
