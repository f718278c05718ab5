"""One place for what must outlive any process: checkpoints, journal, version log, lock and history of a run.

Owns how bytes get there whole and durable, in a folder (`FolderStore`) or behind an fsspec URL (`ObjectStore`); `actors.run.store_actor` reaches a
folder that another host has. Called by queue, learner, generators and controller; knows none of them. Blocking and safe to call from any thread.

Names are relative, with "/" between their parts. Whoever needs several files to appear together writes them, then a marker last: on an object store
no two files change at once. A file that is not there is a FileNotFoundError; whatever else goes wrong is a StoreError that names the file.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

import msgspec

from rlvr.errors import StoreError

PIECE_BYTES = 8 * 2**20
"""Files travel in pieces of this size, so that none is in memory whole."""
PART = ".part"
"""Ends the hidden name under which a file is written before it is whole; `list` leaves these out."""


class Entry(msgspec.Struct, frozen=True, order=True):
    """One file of a store."""

    name: str
    num_bytes: int


class Store(Protocol):
    """What every store does."""

    def read(self, name: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """The file, or `size` bytes of it from `offset`; fewer, down to none, where it ends before."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """The file is `data` now: whole or not at all, and durable at return."""
        ...

    def write_at(self, name: str, data: bytes, *, offset: int) -> None:
        """Write into a file, which is made where it is missing; durable at return, not atomic. StoreError on an object store."""
        ...

    def list(self, prefix: str) -> list[Entry]:
        """All files below the folder `prefix` ("" = the whole store), at any depth, sorted by name."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a whole folder; nothing happens where there is none."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or folder another name. A file of the new name is replaced; a folder that holds files is a StoreError.

        Atomic on a folder store; on an object store every file is copied, then removed.
        """
        ...

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this host into the store: whole or not at all, and durable at return."""
        ...

    def download(self, name: str, file: Path) -> None:
        """Copy a file of the store to this host: whole or not at all."""
        ...

    def local(self, name: str) -> Path | None:
        """The path of a file or folder where this process sees the store as a folder; None elsewhere."""
        ...


def open_root(root: str) -> Store:
    """The store at a folder or a URL; a `file://` URL is a folder. Raises StoreError for a URL that nothing here can open."""
    if urlsplit(root).scheme == "file":
        return FolderStore(Path(unquote(urlsplit(root).path)))
    return ObjectStore(root) if is_url(root) else FolderStore(Path(root))


def is_url(root: str) -> bool:
    return "://" in root


def part_of(name: str) -> str:
    """A hidden name beside `name`, never given twice."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}.{last}.{secrets.token_hex(8)}{PART}"


class FolderStore:
    """A store in a folder of this host, or of a shared volume."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def read(self, name: str, *, offset: int = 0, size: int | None = None) -> bytes:
        with _named("read", self._path(name)), self._path(name).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)

    def write(self, name: str, data: bytes) -> None:
        with self._whole(name) as part:
            part.write_bytes(data)

    def write_at(self, name: str, data: bytes, *, offset: int) -> None:
        path = self._path(name)
        with _named("write", path):
            is_new = not path.exists()
            _make_folder(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                rest = memoryview(data)
                while rest:
                    written = os.pwrite(descriptor, rest, offset)
                    rest, offset = rest[written:], offset + written
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync(path.parent)

    def list(self, prefix: str) -> list[Entry]:
        folder = self._path(prefix) if prefix else self.root
        with _named("list", folder):
            return sorted(self._entries(folder))

    def remove(self, name: str) -> None:
        path = self._path(name)
        with _named("remove", path), contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            sync(path.parent)

    def rename(self, old: str, new: str) -> None:
        source, target = self._path(old), self._path(new)
        with _named("rename", source):
            if not source.is_dir():
                sync(source)
            _make_folder(target.parent)
            os.replace(source, target)
            sync(target.parent)
            sync(source.parent)

    def upload(self, file: Path, name: str) -> None:
        with self._whole(name) as part:
            _copy(file, part)

    def download(self, name: str, file: Path) -> None:
        with _named("download", self._path(name)), whole_file(file) as part:
            _copy(self._path(name), part)

    def local(self, name: str) -> Path | None:
        return self._path(name)

    def sweep(self, *, older_s: float) -> int:
        """Remove what killed writers left half written, except what is younger than `older_s`; returns how many files went."""
        now, swept = time.time(), 0
        with _named("sweep", self.root):
            for parent, _, files in os.walk(self.root):
                for path in (Path(parent, file) for file in files if is_part(file)):
                    with contextlib.suppress(FileNotFoundError):
                        if now - path.stat().st_mtime >= older_s:
                            path.unlink()
                            swept += 1
        return swept

    def _path(self, name: str) -> Path:
        return self.root / checked(name)

    def _entries(self, folder: Path) -> Iterator[Entry]:
        for parent, _, files in os.walk(folder):
            for file in files:
                if not is_part(file):
                    path = Path(parent, file)
                    with contextlib.suppress(FileNotFoundError):  # removed since the walk saw it
                        yield Entry(name=path.relative_to(self.root).as_posix(), num_bytes=path.stat().st_size)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        """A hidden file beside `name` that takes its place, durably, when the block ends well."""
        path = self._path(name)
        part = self._path(part_of(name))
        with _named("write", path):
            _make_folder(path.parent)
            try:
                yield part
                sync(part)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            sync(path.parent)


class ObjectStore:
    """A store behind an fsspec URL, such as s3://bucket/folder. Whole and durable are what the object store itself promises of a PUT."""

    def __init__(self, url: str) -> None:
        """Raises StoreError where no installed package knows the URL's scheme, or the URL is malformed."""
        from fsspec.core import url_to_fs  # only runs with such a store wait for this import

        self.url = url
        options: dict[str, Any] = {"auto_mkdir": True} if urlsplit(url).scheme == "file" else {}
        try:
            files, root = cast("tuple[Any, str]", url_to_fs(url, use_listings_cache=False, **options))
        except Exception as error:  # what a scheme's own package raises is not known here
            raise StoreError(f"the store {url} cannot be opened: {error}") from error
        self._files, self._root = files, root.rstrip("/")

    def read(self, name: str, *, offset: int = 0, size: int | None = None) -> bytes:
        path = self._path(name)
        with _named("read", path):
            if offset == 0 and size is None:
                return bytes(self._files.cat_file(path))
            num_bytes = int(self._files.info(path)["size"])
            end = num_bytes if size is None else min(offset + size, num_bytes)
            return bytes(self._files.cat_file(path, start=offset, end=end)) if offset < end else b""

    def write(self, name: str, data: bytes) -> None:
        with _named("write", self._path(name)):
            self._files.pipe_file(self._path(name), data)

    def write_at(self, name: str, data: bytes, *, offset: int) -> None:
        raise StoreError(f"{self._path(name)}: an object is written whole, with write or upload")

    def list(self, prefix: str) -> list[Entry]:
        folder = self._path(prefix) if prefix else self._root
        with _named("list", folder):
            found: dict[str, dict[str, Any]] = self._files.find(folder, detail=True)
            return sorted(Entry(name=self._name(path), num_bytes=int(facts["size"])) for path, facts in found.items() if path != folder)

    def remove(self, name: str) -> None:
        with _named("remove", self._path(name)), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def rename(self, old: str, new: str) -> None:
        with _named("rename", self._path(old)):
            inside = [entry.name for entry in self.list(old)]
            if inside and self.list(new):
                raise StoreError(f"{self._path(old)} cannot be renamed: {self._path(new)} holds files")
            for name in inside or [old]:
                self._files.cp_file(self._path(name), self._path(new + name.removeprefix(old)))
            self.remove(old)

    def upload(self, file: Path, name: str) -> None:
        with _named("write", self._path(name)):
            self._files.put_file(str(file), self._path(name))

    def download(self, name: str, file: Path) -> None:
        with _named("download", self._path(name)), whole_file(file) as part:
            self._files.get_file(self._path(name), str(part))

    def local(self, name: str) -> Path | None:
        return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")


def checked(name: str) -> str:
    """The name itself. Raises ValueError where it could lead out of the store."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"a store's names are relative, with / between their parts, got {name!r}")
    return name


def is_part(name: str) -> bool:
    """True for the last part of a name under which a file is still being written."""
    return name.startswith(".") and name.endswith(PART)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A hidden path beside `file` that takes its place when the block ends well: whole or not at all."""
    part = file.with_name(part_of(file.name))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(what: str, path: object) -> Iterator[None]:
    """Turn what goes wrong into a StoreError that says what was done to which file; a file that is not there stays a FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise StoreError(f"{path}: {what}: {error.strerror or error}") from error
    except Exception as error:  # an object store's package raises errors of its own
        raise StoreError(f"{path}: {what}: {type(error).__name__}: {error}") from error


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and flush the names that are new."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync(one.parent)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as given, target.open("wb") as taken:
        shutil.copyfileobj(given, taken, PIECE_BYTES)
