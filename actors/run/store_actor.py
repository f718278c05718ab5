"""A folder store of one host, for the actors on others.

Owns the Ray actor that stands beside the folder, the store that reaches through it, and the address by which any actor of a run opens the run's
store. The controller makes the actor, on its own node; queue, learner and generators call `open_store`.
"""

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from rlvr.errors import StoreError
from rlvr.store import PIECE_BYTES, Entry, FolderStore, ObjectStore, Store, checked, part_of, whole_file

ANSWER_S = 60.0
"""One call moves PIECE_BYTES at most; a store actor that takes longer hangs, or its disk does."""
PATIENCE_S = 60.0
"""A store actor that Ray is restarting is waited for."""
DEATH_S = 5.0
"""Ray says at first of an actor that it restarts that it is dead; one that is still dead after this is gone."""
RETRY_S = 0.5


class StoreAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run's store is."""

    kind: Literal["folder", "url"]
    where: str
    is_shared: bool
    """True where run.store was declared: every host sees that folder."""
    node_id: str
    """Of the Ray node on which the controller lives, which sees the folder in any case."""


class StoreActor:
    """A `FolderStore`, reached through Ray. It holds nothing, so a restarted one is as good."""

    def __init__(self, root: str) -> None:
        self._store = FolderStore(Path(root))

    def read(self, name: str, *, offset: int, size: int | None) -> bytes:
        return self._store.read(name, offset=offset, size=size)

    def write(self, name: str, data: bytes) -> None:
        self._store.write(name, data)

    def write_at(self, name: str, data: bytes, *, offset: int) -> None:
        self._store.write_at(name, data, offset=offset)

    def list(self, prefix: str) -> list[Entry]:
        return self._store.list(prefix)

    def remove(self, name: str) -> None:
        self._store.remove(name)

    def rename(self, old: str, new: str) -> None:
        self._store.rename(old, new)

    def alive(self) -> int:
        """The process that answers."""
        return os.getpid()


class RemoteStore:
    """The store of a folder that another host has, through the actor beside it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def read(self, name: str, *, offset: int = 0, size: int | None = None) -> bytes:
        data: bytes = self._ask("read", name, offset=offset, size=size)
        return data

    def write(self, name: str, data: bytes) -> None:
        self._ask("write", name, data)

    def write_at(self, name: str, data: bytes, *, offset: int) -> None:
        self._ask("write_at", name, data, offset=offset)

    def list(self, prefix: str) -> list[Entry]:
        found: list[Entry] = self._ask("list", prefix)
        return found

    def remove(self, name: str) -> None:
        self._ask("remove", name)

    def rename(self, old: str, new: str) -> None:
        self._ask("rename", old, new)

    def upload(self, file: Path, name: str) -> None:
        part, offset = part_of(checked(name)), 0
        try:
            with file.open("rb") as given:
                while (piece := given.read(PIECE_BYTES)) or offset == 0:
                    self.write_at(part, piece, offset=offset)
                    offset += len(piece)
                    if not piece:
                        break
            self.rename(part, name)
        except BaseException:
            with contextlib.suppress(StoreError):
                self.remove(part)
            raise

    def download(self, name: str, file: Path) -> None:
        with whole_file(file) as part, part.open("wb") as taken:
            while piece := self.read(name, offset=taken.tell(), size=PIECE_BYTES):
                taken.write(piece)

    def local(self, name: str) -> Path | None:
        return None

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """One call. What was raised there is raised here. An actor that is being restarted is asked again: every call may be made twice, and a
        rename that was made already is done. One that hangs is a StoreError after ANSWER_S: no call waits for ever."""
        asked = time.monotonic()
        for attempt in itertools.count():
            try:
                return ray.get(getattr(self._actor, method).remote(*arguments, **named), timeout=ANSWER_S)
            except GetTimeoutError as error:
                raise StoreError(f"the store's actor hangs: {method} {arguments[0]} gave no answer within {ANSWER_S:g} s") from error
            except RayTaskError as error:
                if attempt and method == "rename" and isinstance(error.cause, FileNotFoundError) and self._is_there(arguments[1]):
                    return None
                if isinstance(error.cause, StoreError | FileNotFoundError | ValueError):
                    raise error.cause from error
                raise StoreError(f"the store's actor: {method} {arguments[0]}: {error.cause}") from error
            except RayActorError as error:
                patience_s = PATIENCE_S if isinstance(error, ActorUnavailableError) else DEATH_S
                if time.monotonic() - asked > patience_s:
                    raise StoreError(f"the store's actor has not answered for {patience_s:g} s ({method} {arguments[0]}): {error}") from error
                time.sleep(RETRY_S)
        raise AssertionError("counting does not end")

    def _is_there(self, name: str) -> bool:
        folder, _, _ = name.rpartition("/")
        return any(entry.name == name or entry.name.startswith(f"{name}/") for entry in self.list(folder))


def open_store(address: StoreAddress, actor: Any) -> Store:
    """The run's store as this process reaches it best: the object store, the folder itself, or the actor beside the folder."""
    if address.kind == "url":
        return ObjectStore(address.where)
    if address.is_shared or address.node_id == ray.get_runtime_context().get_node_id():
        return FolderStore(Path(address.where))
    return RemoteStore(actor)
