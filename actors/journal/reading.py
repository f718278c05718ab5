"""Reading segments: frames to entries, a torn tail told from a corrupt middle, and where each rollout's own entries lie.

Owns what counts as torn, and whose journals can be read. Called by the journal at its opening and when a batch is recalled, and before a resume
starts anything; writes nothing.
"""

import contextlib
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from actors.journal.entries import FORMAT, Accepted, Committed, Dropped, Entry, HandedOut, Header, Judged, Snapshot
from actors.journal.files import SegmentFiles
from rlvr import wire
from rlvr.errors import QueueError, UserError, WireError
from rlvr.records import JudgedRollout, Rollout

_GROUP_PAYLOAD = b"\x82\xa4type\xa5group"
"""How the payload of a `group` entry begins: a map of two, type first."""
_SNAPSHOT = b"\xa4type\xa8snapshot"
AT_ONCE = 16
"""Objects that are read at the same time."""

_ENTRIES = msgspec.msgpack.Decoder(Entry)
_OURS = bytes([wire.WIRE_VERSION])


class Position(NamedTuple):
    """Where one frame lies."""

    segment: int
    offset: int
    size: int


class _Format(msgspec.Struct, tag="header"):
    format: int


class FoundSegments:
    """The segments that an opening has found. An object is read once, some at the same time; of a file the head is read apart."""

    def __init__(self, files: SegmentFiles) -> None:
        self._files = files
        self.sizes = dict(files.segments())
        self.numbers = list(self.sizes)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="journal-read")
        self._whole: dict[int, Future[bytes]] = {}
        self._taken: set[int] = set()

    def header(self, number: int) -> Header:
        """Raises WireError where the segment has no whole one."""
        return wire.unpack(self._frame(number, 0), Header)

    def newest_snapshot(self) -> int:
        """The newest segment that begins with a whole snapshot; 0 where there is none."""
        for number in reversed(self.numbers):
            frame = self._frame(number, len(self._frame(number, 0)))
            if _SNAPSHOT in frame[: wire.HEADER_BYTES + 32]:
                with contextlib.suppress(WireError):
                    wire.unpack(frame, Snapshot)
                    return number
        return 0

    def take(self, number: int) -> bytes:
        """The whole segment, which is not kept."""
        if not self._files.is_one_commit_a_segment:
            return self._files.read(number)
        data = self._ahead(number, step=1).result()
        self._taken.add(number)
        del self._whole[number]
        return data

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _frame(self, number: int, offset: int) -> bytes:
        if self._files.is_one_commit_a_segment:
            data = self._ahead(number, step=-1).result()
            length = int.from_bytes(data[offset + 1 : offset + 5], "little")
            return data[offset : offset + wire.HEADER_BYTES + length]
        head = self._files.read(number, offset=offset, size=5)
        return self._files.read(number, offset=offset, size=wire.HEADER_BYTES + int.from_bytes(head[1:], "little"))

    def _ahead(self, number: int, *, step: int) -> Future[bytes]:
        """This segment, with those that are wanted next on their way."""
        begin = bisect_left(self.numbers, number)
        for place in range(begin, begin + step * AT_ONCE, step):
            if 0 <= place < len(self.numbers) and (wanted := self.numbers[place]) not in self._whole and wanted not in self._taken:
                self._whole[wanted] = self._threads.submit(self._files.read, wanted)
        return self._whole[number]


class SegmentReader:
    """The entries of one segment. After the last one `end` is where the whole frames end, and `torn_bytes` what lies behind."""

    def __init__(self, data: bytes, *, number: int, is_newest: bool) -> None:
        self._data = data
        self._number = number
        self._is_newest = is_newest
        self.end = 0
        self.torn_bytes = 0

    def __iter__(self) -> Iterator[tuple[Position, Entry]]:
        while self.end < len(self._data):
            frame = self._frame(self.end)
            try:
                entry = self._entry(frame)
            except WireError as error:
                if not self._is_newest or _has_group_after(self._data, self.end):
                    raise QueueError(f"journal segment {self._number:08d} is corrupt at byte {self.end}: {error}; nothing was changed") from error
                self.torn_bytes = len(self._data) - self.end
                return
            position = Position(self._number, self.end, len(frame))
            self.end += len(frame)
            yield position, entry

    def _frame(self, offset: int) -> bytes:
        length = int.from_bytes(self._data[offset + 1 : offset + 5], "little")
        return self._data[offset : offset + wire.HEADER_BYTES + length]

    def _entry(self, frame: bytes) -> Entry:
        if self.end == 0:
            _require_format(frame)
        entry = entry_of(frame)
        if (self.end == 0) != isinstance(entry, Header):
            raise WireError("a header is the first entry of a segment, and no other one")
        return entry


def require_readable(files: SegmentFiles) -> None:
    """Raise UserError for a journal that another version wrote, as its newest whole header says. What is torn or corrupt a replay finds."""
    for number, _ in reversed(files.segments()):
        with contextlib.suppress(WireError, FileNotFoundError):  # torn; removed meanwhile by an owner that lives
            head = files.read(number, size=wire.HEADER_BYTES)
            _require_format(files.read(number, size=wire.HEADER_BYTES + int.from_bytes(head[1:5], "little")))
            return


def _require_format(frame: bytes) -> None:
    """Of a segment's first frame. Raises WireError where it is cut or corrupt."""
    if frame[:1] != _OURS and _is_whole(frame):
        raise UserError(f"the journal was written with wire version {frame[0]}, this firesteel reads {wire.WIRE_VERSION}: resume it with its own")
    written = wire.unpack(frame, _Format).format
    if written != FORMAT:
        raise UserError(f"the journal was written in format {written}, this firesteel reads format {FORMAT}: resume it with its own")


def require_next(before: Header | None, header: Header, *, number: int) -> None:
    """Raises QueueError where a segment is missing before this one.

    Numbers skip only where an opening removed a segment without a header, which no incarnation had begun in: so not within one, and no incarnation is
    skipped.
    """
    if before is None:
        return
    is_next = number == before.segment + 1 if header.incarnation == before.incarnation else header.incarnation == before.incarnation + 1
    if not is_next:
        missing = f"{before.segment + 1:08d}" + (f" to {number - 1:08d}" if number - 1 > before.segment + 1 else "")
        raise QueueError(f"journal segment {missing} is missing before segment {number:08d}; nothing was changed")


def entry_of(frame: bytes) -> Entry:
    """The entry of a frame. Raises WireError where it is none.

    msgspec reads a whole frame five times faster than `wire` does, but for a text with a lone surrogate.
    """
    if frame[:1] == _OURS and _is_whole(frame):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return _ENTRIES.decode(memoryview(frame)[wire.HEADER_BYTES :])
    entry: Entry = wire.unpack(frame, Entry)  # type: ignore[arg-type]  # a union of records is read as one of them
    return entry


def _is_whole(frame: bytes) -> bool:
    """Whether length and checksum are right, whatever the wire version."""
    head, check, payload = frame[:5], frame[5 : wire.HEADER_BYTES], frame[wire.HEADER_BYTES :]
    is_long_enough = len(check) == wire.HEADER_BYTES - 5 and len(payload) == int.from_bytes(head[1:], "little")
    return is_long_enough and zlib.crc32(payload, zlib.crc32(head)) == int.from_bytes(check, "little")


def _has_group_after(data: bytes, offset: int) -> bool:
    """Whether a later group commit was begun: then everything before it was durable."""
    found = data.find(_GROUP_PAYLOAD, offset + 1 + wire.HEADER_BYTES)
    while found >= 0:
        start = found - wire.HEADER_BYTES
        length = int.from_bytes(data[start + 1 : start + 5], "little")
        if _is_whole(data[start : found + length]):
            return True
        found = data.find(_GROUP_PAYLOAD, found + 1)
    return False


class Index:
    """Where the entries of the rollouts lie that may still be needed: those held, and those of batches that no checkpoint covers."""

    def __init__(self) -> None:
        self._of_rollout: dict[str, list[Position]] = {}
        self._of_step: dict[int, Sequence[str]] = {}

    def fold(self, position: Position, entry: Entry) -> None:
        """Take the next entry into account."""
        match entry:
            case Accepted(rollout=rollout):
                self._of_rollout[rollout.id] = [position]
            case Judged(verdict=verdict) if verdict.rollout_id in self._of_rollout:
                self._of_rollout[verdict.rollout_id].append(position)
            case Dropped(rollout_id=rollout_id):
                self._of_rollout.pop(rollout_id, None)
            case HandedOut():
                self._of_step[entry.step] = entry.rollout_ids
            case Committed(step=committed):
                for step in [step for step in self._of_step if step <= committed]:
                    for rollout_id in self._of_step.pop(step):
                        self._of_rollout.pop(rollout_id, None)

    def oldest_segment(self) -> int | None:
        """The first segment that still holds a rollout in need."""
        return min((positions[0].segment for positions in self._of_rollout.values()), default=None)

    def positions(self, rollout_id: str) -> Sequence[Position]:
        """Of its acceptance and, where it has one, its verdict. Raises QueueError where it is not in the journal."""
        try:
            return self._of_rollout[rollout_id]
        except KeyError as error:
            raise QueueError(f"rollout {rollout_id} is not in the journal") from error


def judged_of(entries: Sequence[Entry]) -> tuple[Rollout, JudgedRollout | None]:
    """A rollout's own entries put together; None where it has no verdict yet."""
    accepted, *rest = entries
    assert isinstance(accepted, Accepted), "a rollout's first entry is its acceptance"
    verdict = next((entry.verdict for entry in rest if isinstance(entry, Judged)), None)
    return accepted.rollout, None if verdict is None else JudgedRollout(rollout=accepted.rollout, verdict=verdict)
