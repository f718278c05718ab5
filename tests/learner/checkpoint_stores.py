"""Stores for the tests of checkpoints: one that another host has, one that breaks at a chosen moment, one that waits."""

import threading
from pathlib import Path

from learner import checkpoint_files
from rlvr.errors import StoreError
from rlvr.store import FolderStore


class HiddenStore(FolderStore):
    """The folder is on another host: this process reaches the files, and no path."""

    def local(self, name: str) -> Path | None:
        return None


class KilledError(BaseException):
    """Stands for the death of the process: nothing that comes after it happens."""


class DyingStore(FolderStore):
    """The process dies just before the change number `last` + 1; from then on nothing is changed."""

    def __init__(self, root: Path, *, last: int, is_hidden: bool) -> None:
        super().__init__(root)
        self.num_changes = 0
        self._last = last
        self._is_hidden = is_hidden

    def write(self, name: str, data: bytes) -> None:
        self._change()
        super().write(name, data)

    def remove(self, name: str) -> None:
        self._change()
        super().remove(name)

    def rename(self, old: str, new: str) -> None:
        self._change()
        super().rename(old, new)

    def upload(self, file: Path, name: str) -> None:
        self._change()
        super().upload(file, name)

    def local(self, name: str) -> Path | None:
        return None if self._is_hidden else super().local(name)

    def _change(self) -> None:
        if self.num_changes >= self._last:
            raise KilledError
        self.num_changes += 1


class FullStore(FolderStore):
    """Its disk is full while `is_full`."""

    is_full = False

    def rename(self, old: str, new: str) -> None:
        if self.is_full:
            raise StoreError(f"{old}: rename: No space left on device")
        super().rename(old, new)


class TakenStore(FolderStore):
    """Another learner loads right after the first change whose new name ends so."""

    def __init__(self, root: Path, *, after: str) -> None:
        super().__init__(root)
        self._after = after

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self._changed(name)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._changed(new)

    def _changed(self, name: str) -> None:
        if name.endswith(self._after):
            super().write(checkpoint_files.OWNER, b"another")


class SlowStore(FolderStore):
    """No checkpoint is changed before `may_go_on` is set; notes the order of the changes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may_go_on = threading.Event()
        self.changes: list[str] = []

    def rename(self, old: str, new: str) -> None:
        self.may_go_on.wait()
        self.changes.append(new)
        super().rename(old, new)

    def write(self, name: str, data: bytes) -> None:
        if name != checkpoint_files.OWNER:
            self.may_go_on.wait()
            self.changes.append(name)
        super().write(name, data)
