"""The journal of one queue: entries in, group commits out, and everything read again after a crash.

Owns the order of entries, the segments and the writer's thread. Called by the queue's service from one thread; the observer is called from the
writer's. An entry has its place when it is appended, so that a write that failed is repeated byte by byte.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec

from actors.journal.entries import FORMAT, Entry, Group, Header, RolledBack, Snapshot
from actors.journal.files import SegmentFiles, TakenOver
from actors.journal.reading import AT_ONCE, FoundSegments, Index, Position, SegmentReader, entry_of, judged_of, require_next
from actors.journal.removal import Removal
from rlvr import wire
from rlvr.errors import FiresteelError, QueueError, WireError
from rlvr.records import JudgedRollout, Rollout

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 2**20
"""A segment that is longer is followed by another one."""
SNAPSHOT_AFTER = 1000
"""So many objects after a snapshot another one is due, where each group commit is one: an opening reads back to it."""
LOOK_S, LOOK_AT_OBJECTS_S = 1.0, 10.0
"""So often, and at each new segment, the journal is looked at for segments of somebody else."""
HELD_S = 0.05
"""Between two questions whether writing is still held."""


class JournalFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal holds, and what its last opening found."""

    segments: int = 0
    num_bytes: int = 0
    torn_bytes: int = 0
    replayed: int = 0
    """Entries that the replay went through."""


class Observer(Protocol):
    """Who counts for the journal."""

    def committed(self, num_bytes: int, seconds: float) -> None: ...
    def failed(self) -> None: ...


class Journal:
    """`inspect`, `replay` to its end, then `open`, then `append`. Raises QueueError once writing has failed for `give_up_s`."""

    def __init__(
        self,
        files: SegmentFiles,
        *,
        run: str,
        observer: Observer,
        commit_s: float = 0.005,
        keep_segments: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        retry_s: float = 1.0,
        give_up_s: float = 60.0,
        wall_clock: Callable[[], float] = time.time,
        has_thread: bool = True,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_held: whether nothing may be written at present; asked by the writer's thread."""
        self._files, self._run, self._observer = files, run, observer
        self._commit_s, self._keep_segments, self._segment_bytes = commit_s, keep_segments, segment_bytes
        self._retry_s, self._give_up_s, self._wall_clock = retry_s, give_up_s, wall_clock
        self._index = Index()
        self._sizes: dict[int, int] = {}
        self._found: FoundSegments | None = None
        self._segment, self._lineage, self.incarnation = 0, 0, 0
        self._torn: tuple[int, int] | None = None
        self._torn_bytes = self._replayed = 0
        self._changed = threading.Condition()
        self._pending: list[tuple[Position, bytes]] = []
        self._appended = self._durable = self._serial = 0
        self._waiters: list[tuple[int, Future[None]]] = []
        self._removals: list[tuple[int, int]] = []
        """Entries that must be durable before the segments below a number are removed."""
        self._failure: QueueError | None = None
        self._is_closing = threading.Event()
        self._has_thread, self._is_held = has_thread, is_held
        self._written, self._snapshot_at, self._looked_at = 0, 0, -math.inf
        self._removal = Removal(files, is_kept=keep_segments, removed=self._removed)
        self._writer = threading.Thread(target=self._write_until_closed, name="journal", daemon=True)

    # --- after a crash

    def inspect(self) -> int:
        """Look at what is there, as the only one who may write it; returns the incarnation that begins: the number of starts before it.

        Raises QueueError where another process holds it.
        """
        self._files.hold()
        self._found = FoundSegments(self._files)
        for number in reversed(self._found.numbers):
            with contextlib.suppress(WireError):  # a torn one; others than the newest are found corrupt by the replay
                self.incarnation = self._found.header(number).incarnation + 1
                break
        return self.incarnation

    def replay(self) -> Iterator[Entry]:
        """The newest whole snapshot and all that came after it, or all there is.

        Raises QueueError for corruption, naming segment and offset, and for a segment that is missing, and UserError for another version's journal;
        nothing is changed in any case.
        """
        assert self._found is not None, "inspect comes first"
        found, before = self._found, None
        start, newest = found.newest_snapshot(), max(found.numbers, default=0)
        for number in found.numbers:
            reader = SegmentReader(found.take(number), number=number, is_newest=number == newest)
            for position, entry in reader:
                if isinstance(entry, Header):
                    require_next(before, entry, number=number)
                    before = entry
                self._index.fold(position, entry)
                self._replayed += 1
                if number >= start:
                    yield entry
            if not reader.end and number != newest:
                raise QueueError(f"journal segment {number:08d} is empty, and is not the newest one; nothing was changed")
            self._sizes[number], self._segment = found.sizes[number], number
            if reader.torn_bytes or not reader.end:
                self._torn, self._torn_bytes = (number, reader.end), reader.torn_bytes
        self._snapshot_at = start
        found.close()

    def open(self, *, lineage: int) -> None:
        """Cut the torn tail and begin a segment of this incarnation; durable at return. Raises QueueError where that fails for `give_up_s`."""
        if self._torn is not None:
            number, size = self._torn
            logger.warning("journal segment=%08d ended in %d torn bytes, which nobody was told of; they are cut", number, self._torn_bytes)
            if size:
                self._files.cut(number, size)
                self._sizes[number] = size
            else:
                self._files.remove(number, is_kept=False)
                del self._sizes[number]
        self._lineage, self._written = lineage, self._segment
        self._begin_segment()
        ((position, data),) = self._pending
        self._pending.clear()
        self._write(position.segment, data, offset=0)
        self._durable = self._appended
        if self._has_thread:
            self._writer.start()

    def recall(self, rollout_ids: Sequence[str]) -> Sequence[Rollout | JudgedRollout]:
        """These rollouts, each with its verdict where it has one. Any thread may call it, for rollouts whose entries are durable."""
        places = [self._index.positions(rollout_id) for rollout_id in rollout_ids]
        in_segment: dict[int, list[Position]] = {}
        for position in (position for of_one in places for position in of_one):
            in_segment.setdefault(position.segment, []).append(position)
        with ThreadPoolExecutor(AT_ONCE if self._files.is_one_commit_a_segment else 1, thread_name_prefix="journal-recall") as threads:
            parts = dict(zip(in_segment, threads.map(self._span, in_segment.values()), strict=True))
        found: list[Rollout | JudgedRollout] = []
        for of_one in places:
            rollout, judged = judged_of([_entry_at(position, *parts[position.segment]) for position in of_one])
            found.append(judged or rollout)
        return found

    # --- at work

    def append(self, entry: Entry) -> None:
        """Entries are written in the order of these calls, soon."""
        self.check()
        with self._changed:
            if self._sizes[self._segment] >= self._segment_bytes:
                self._begin_segment()
            elif not self._pending:
                if self._files.is_one_commit_a_segment:
                    self._begin_segment()
                else:
                    self._serial += 1
                    self._add(Group(serial=self._serial))
            self._add(entry)
            self._changed.notify()

    def flushed(self) -> "Future[None]":
        """Done when everything appended so far is durable; fails with QueueError where it cannot be written."""
        done: Future[None] = Future()
        with self._changed:
            if self._durable >= self._appended:
                done.set_result(None)
            elif self._failure is not None:
                done.set_exception(self._failure)
            else:
                self._waiters.append((self._appended, done))
        return done

    def compact(self, snapshot: Snapshot) -> None:
        """Begin a segment with the whole state; once that is durable, what nobody needs any more is removed."""
        self.check()
        with self._changed:
            self._lineage = snapshot.lineage
            self._begin_segment()
            self._snapshot_at = self._segment
            self._add(snapshot)
            oldest = self._index.oldest_segment()
            self._removals.append((self._appended, self._segment if oldest is None else min(oldest, self._segment)))
            self._changed.notify()

    def is_snapshot_due(self) -> bool:
        """Whether `compact` should be called though nothing was committed."""
        return self._files.is_one_commit_a_segment and self._segment - self._snapshot_at >= SNAPSHOT_AFTER

    def check(self) -> None:
        """Raises QueueError once writing was given up."""
        if self._failure is not None:
            raise self._failure

    def facts(self) -> JournalFacts:
        with self._changed:
            sizes = self._sizes
            return JournalFacts(segments=len(sizes), num_bytes=sum(sizes.values()), torn_bytes=self._torn_bytes, replayed=self._replayed)

    def close(self) -> None:
        """Write what is left and end the threads; what is durable stays that. May be called again."""
        self._is_closing.set()
        with self._changed:
            self._changed.notify()
        if self._writer.ident is not None:
            self._writer.join()
        elif self._failure is None:
            self.write()
        self._removal.close()
        self._failure = self._failure or QueueError("the journal is closed")
        self.release()

    def release(self) -> None:
        """Hold the place no longer, written or not: after an opening that failed."""
        if self._found is not None:
            self._found.close()
        self._files.close()

    # --- inside, under the lock

    def _begin_segment(self) -> None:
        self._segment += 1
        self._sizes[self._segment] = 0
        header = Header(
            format=FORMAT, run=self._run, segment=self._segment, incarnation=self.incarnation, lineage=self._lineage, at=self._wall_clock()
        )
        self._add(header)

    def _add(self, entry: Entry) -> None:
        if isinstance(entry, RolledBack):
            self._lineage = entry.lineage
        data = wire.pack(entry)
        position = Position(self._segment, self._sizes[self._segment], len(data))
        self._sizes[self._segment] += len(data)
        self._index.fold(position, entry)
        self._pending.append((position, data))
        self._appended += 1

    # --- the writer's thread

    def _write_until_closed(self) -> None:
        while not (self._is_closing.is_set() and not self._pending):
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._is_closing.is_set())
            if self._commit_s:
                self._is_closing.wait(self._commit_s)
            try:
                self.write()
            except Exception as error:  # whatever it is, nobody may wait for this thread any more
                logger.exception("the journal's writer ended")
                self._fail(error if isinstance(error, QueueError) else QueueError(f"the journal's writer failed: {error!r}"))
                return

    def write(self) -> None:
        """One group commit of all that was appended. The writer's thread does this; a journal without one waits for its caller to do it.

        Raises TakenOver where somebody else has begun a segment, before anything is written.
        """
        was_held = False
        while self._is_held() and not self._is_closing.wait(HELD_S):
            was_held = True
        with self._changed:
            chunks, upto = self._pending, self._appended
            self._pending = []
        if chunks:
            self._require_sole(chunks[-1][0].segment, is_due=was_held)
            self._commit(chunks)
            self._acknowledge(upto)
            self._remove_covered()

    def _require_sole(self, newest: int, *, is_due: bool) -> None:
        """Cheap enough before a commit: a listing once in a while, after a standstill, and at each new segment of a folder; an object that is there
        already is found as it is written.
        """
        is_of_objects = self._files.is_one_commit_a_segment
        is_new = newest > self._written and not is_of_objects
        if is_due or is_new or time.monotonic() - self._looked_at >= (LOOK_AT_OBJECTS_S if is_of_objects else LOOK_S):
            self._patiently(self._look)
            self._looked_at = time.monotonic()

    def _look(self) -> None:
        foreign = [number for number, _ in self._files.segments() if number > self._written]
        if foreign:
            raise TakenOver(f"another process has taken over: journal segment {foreign[0]:08d} is not this one's")

    def _commit(self, chunks: Sequence[tuple[Position, bytes]]) -> None:
        began = time.monotonic()
        segments = dict.fromkeys(position.segment for position, _ in chunks)
        for number in segments:
            own = [(position, data) for position, data in chunks if position.segment == number]
            self._write(number, b"".join(data for _, data in own), offset=own[0][0].offset)
        self._observer.committed(sum(len(data) for _, data in chunks), time.monotonic() - began)

    def _write(self, number: int, data: bytes, *, offset: int) -> None:
        self._patiently(lambda: self._files.append(number, data, offset=offset))
        self._written = max(self._written, number)

    def _patiently(self, do: Callable[[], None]) -> None:
        began = time.monotonic()
        while True:
            try:
                do()
                return
            except TakenOver:
                raise
            except (OSError, FiresteelError) as error:
                self._observer.failed()
                if time.monotonic() - began >= self._give_up_s:
                    raise QueueError(f"the journal cannot be written for {self._give_up_s:.0f} s: {error}") from error
                logger.warning("the journal cannot be written, nothing is accepted meanwhile; free its disk or mend its store: %s", error)
                time.sleep(self._retry_s)

    def _acknowledge(self, upto: int) -> None:
        with self._changed:
            self._durable = upto
            done = [future for serial, future in self._waiters if serial <= upto]
            self._waiters = [entry for entry in self._waiters if entry[0] > upto]
        for future in done:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _fail(self, error: QueueError) -> None:
        with self._changed:
            self._failure = error
            waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _remove_covered(self) -> None:
        """The segments that hold nothing in need may go, the oldest first, now that the snapshot behind them is durable."""
        with self._changed:
            upto = max((first for serial, first in self._removals if serial <= self._durable), default=0)
            self._removals = [removal for removal in self._removals if removal[0] > self._durable]
            covered = [number for number in sorted(self._sizes) if number < upto]
        if covered and self._has_thread:
            self._removal.begin(covered)
        else:
            self._removal.remove(covered)

    def _removed(self, number: int) -> None:
        with self._changed:
            self._sizes.pop(number, None)

    # --- reading

    def _span(self, positions: Sequence[Position]) -> tuple[int, bytes]:
        """The part of a segment in which all these lie, and where it begins."""
        begin = min(position.offset for position in positions)
        end = max(position.offset + position.size for position in positions)
        return begin, self._files.read(positions[0].segment, offset=begin, size=end - begin)


def _entry_at(position: Position, begin: int, part: bytes) -> Entry:
    return entry_of(part[position.offset - begin : position.offset - begin + position.size])
