"""Where a journal's segments lie: a folder, written by append and fsync, or an object store, written one whole object a group commit.

Own names, durability and removal of segments; know nothing of what is in them. Called by the journal, by one thread at a time for each segment.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Protocol

from rlvr.errors import QueueError
from rlvr.store import Store, sync

SUFFIX = ".journal"
ARCHIVE = "archive"
LOCK = "lock"
LOCK_WAIT_S = 10.0
"""For so long an opening waits for the process before it, which may be about to die."""


class TakenOver(QueueError):  # noqa: N818 - what happened, not what is wrong
    """Another process writes this journal: ours writes nothing more."""


class SegmentFiles(Protocol):
    """What the journal asks of its place. Whatever fails is an OSError or a StoreError; a failed `append` has left nothing behind."""

    is_one_commit_a_segment: bool

    def hold(self) -> None:
        """Be the only one who writes here, until `close`. Raises QueueError where another process is and stays that."""
        ...

    def segments(self) -> Sequence[tuple[int, int]]:
        """Number and bytes of every segment, by number; the archive is left out."""
        ...

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes: ...

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        """Write `data` at the end `offset` of a segment, which is new at offset 0; durable at return.

        Raises TakenOver where somebody else has made that segment.
        """
        ...

    def cut(self, number: int, size: int) -> None: ...

    def remove(self, number: int, *, is_kept: bool) -> None:
        """Remove a segment, or move it to the archive."""
        ...

    def close(self) -> None: ...


class FolderFiles:
    """Segments in a folder. is_synced: each append is followed by an fsync; else it is with the operating system alone."""

    is_one_commit_a_segment = False

    def __init__(self, root: Path, *, is_synced: bool = True, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._root = root
        self._is_synced = is_synced
        self._lock_wait_s = lock_wait_s
        self._lock: FileIO | None = None
        self._open: tuple[int, int] | None = None
        self._is_named = False  # whether the open segment's name is durable too
        _make_folder(root)

    def hold(self) -> None:
        lock = FileIO(self._root / LOCK, "a+")
        began = time.monotonic()
        while not _is_locked(lock):
            if time.monotonic() - began >= self._lock_wait_s:
                lock.seek(0)
                holder = lock.read(200).decode(errors="replace").strip() or "unknown"
                lock.close()
                raise QueueError(
                    f"the journal {self._root} is held by another process ({holder}): end that one first, two would overwrite each other"
                )
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        self._lock = lock

    def segments(self) -> Sequence[tuple[int, int]]:
        found = []
        for path in self._root.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if path.stem.isdigit():
                    found.append((int(path.stem), path.stat().st_size))
        return sorted(found)

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes:
        with self._path(number).open("rb") as file:
            file.seek(offset)
            return file.read() if size is None else file.read(size)

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        descriptor = self._descriptor(number)
        try:
            self._write(descriptor, data, offset)
        except OSError:
            os.ftruncate(descriptor, offset)  # what is half there must not lie before the next try
            raise

    def cut(self, number: int, size: int) -> None:
        with self._path(number).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def remove(self, number: int, *, is_kept: bool) -> None:
        if is_kept:
            _make_folder(self._root / ARCHIVE)
            self._path(number).replace(self._root / ARCHIVE / self._path(number).name)
            sync(self._root / ARCHIVE)
        else:
            self._path(number).unlink(missing_ok=True)
        sync(self._root)

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _path(self, number: int) -> Path:
        return self._root / f"{number:08d}{SUFFIX}"

    def _descriptor(self, number: int) -> int:
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                os.close(self._open[1])
                self._open = None
            self._open, self._is_named = (number, self._create(number)), False
        if not self._is_named:  # again, where it failed: a file without a durable name is none
            sync(self._root)
            self._is_named = True
        return self._open[1]

    def _create(self, number: int) -> int:
        try:
            return os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError as error:
            raise _taken_over(number) from error

    def _write(self, descriptor: int, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
        if self._is_synced:
            os.fdatasync(descriptor)


class ObjectFiles:
    """Segments in a store of whole objects: each group commit is one."""

    is_one_commit_a_segment = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def hold(self) -> None:
        """An object store has no lock: who comes second finds a segment that it did not make."""

    def segments(self) -> Sequence[tuple[int, int]]:
        found = [(entry.name.removesuffix(SUFFIX), entry.num_bytes) for entry in self._store.list("") if entry.name.endswith(SUFFIX)]
        return sorted((int(stem), num_bytes) for stem, num_bytes in found if stem.isdigit())

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes:
        return self._store.read(self._name(number), offset=offset, size=size)

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        assert offset == 0, "an object is written once"
        there = self._there(number)
        if there is None:
            self._store.write(self._name(number), data)
            there = self._there(number)
        if there != data:  # else it is ours, by a write whose answer was lost
            raise _taken_over(number)

    def cut(self, number: int, size: int) -> None:
        self._store.write(self._name(number), self._store.read(self._name(number), size=size))

    def remove(self, number: int, *, is_kept: bool) -> None:
        if is_kept:
            self._store.rename(self._name(number), f"{ARCHIVE}/{self._name(number)}")
        else:
            self._store.remove(self._name(number))

    def close(self) -> None:
        """Nothing is open."""

    def _there(self, number: int) -> bytes | None:
        try:
            return self._store.read(self._name(number))
        except FileNotFoundError:
            return None

    def _name(self, number: int) -> str:
        return f"{number:08d}{SUFFIX}"


def _taken_over(number: int) -> TakenOver:
    return TakenOver(f"another process has taken over: journal segment {number:08d} is not this one's")


def _is_locked(lock: FileIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; their names are durable at return."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
