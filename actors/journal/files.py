"""Where a journal's segments lie: a folder, written by append and fsync, or an object store, written one whole object a group commit.

Own names, durability and removal of segments; know nothing of what is in them. Called by the journal, by one thread at a time for each segment.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rlvr.store import Store

SUFFIX = ".journal"
ARCHIVE = "archive"


class SegmentFiles(Protocol):
    """What the journal asks of its place. Whatever fails is an OSError or a StoreError; a failed `append` has left nothing behind."""

    is_one_commit_a_segment: bool

    def segments(self) -> Sequence[tuple[int, int]]:
        """Number and bytes of every segment, by number; the archive is left out."""
        ...

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes: ...

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        """Write `data` at the end `offset` of a segment; durable at return."""
        ...

    def cut(self, number: int, size: int) -> None: ...

    def remove(self, number: int, *, is_kept: bool) -> None:
        """Remove a segment, or move it to the archive."""
        ...

    def close(self) -> None: ...


class FolderFiles:
    """Segments in a folder. is_synced: each append is followed by an fsync; else it is with the operating system alone."""

    is_one_commit_a_segment = False

    def __init__(self, root: Path, *, is_synced: bool = True) -> None:
        self._root = root
        self._is_synced = is_synced
        self._open: tuple[int, int] | None = None
        root.mkdir(parents=True, exist_ok=True)

    def segments(self) -> Sequence[tuple[int, int]]:
        return sorted((int(path.stem), path.stat().st_size) for path in self._root.glob(f"*{SUFFIX}") if path.stem.isdigit())

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
            (self._root / ARCHIVE).mkdir(exist_ok=True)
            self._path(number).replace(self._root / ARCHIVE / self._path(number).name)
            _sync_folder(self._root / ARCHIVE)
        else:
            self._path(number).unlink(missing_ok=True)
        _sync_folder(self._root)

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _path(self, number: int) -> Path:
        return self._root / f"{number:08d}{SUFFIX}"

    def _descriptor(self, number: int) -> int:
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = (number, os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            _sync_folder(self._root)
        return self._open[1]

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

    def segments(self) -> Sequence[tuple[int, int]]:
        found = [(entry.name.removesuffix(SUFFIX), entry.num_bytes) for entry in self._store.list("") if entry.name.endswith(SUFFIX)]
        return sorted((int(stem), num_bytes) for stem, num_bytes in found if stem.isdigit())

    def read(self, number: int, *, offset: int = 0, size: int | None = None) -> bytes:
        return self._store.read(self._name(number), offset=offset, size=size)

    def append(self, number: int, data: bytes, *, offset: int) -> None:
        assert offset == 0, "an object is written once"
        self._store.write(self._name(number), data)

    def cut(self, number: int, size: int) -> None:
        self._store.write(self._name(number), self._store.read(self._name(number), size=size))

    def remove(self, number: int, *, is_kept: bool) -> None:
        if is_kept:
            self._store.rename(self._name(number), f"{ARCHIVE}/{self._name(number)}")
        else:
            self._store.remove(self._name(number))

    def close(self) -> None:
        """Nothing is open."""

    def _name(self, number: int) -> str:
        return f"{number:08d}{SUFFIX}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
