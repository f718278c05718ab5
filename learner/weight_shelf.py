"""The staged versions of one receiver, in host memory, and which of them stay.

A version stays while it is the newest, while it is *kept* (announced so, because somebody evaluates it) or while it is *held* (a watch has asked for
it and will have it applied). Taking one drops all older ones: those of an older lineage, and of the same lineage those of an earlier step. Called by
the threads of one receiver; knows no store, no group.
"""

import threading

import msgspec
import torch

from learner.weight_protocol import NOT_STAGED, StagedVersion
from rlvr.errors import BroadcastError
from rlvr.records import Version


class Staged(msgspec.Struct, frozen=True):
    """A staged version and its tensors."""

    staged: StagedVersion
    tensors: dict[str, torch.Tensor]


class Shelf:
    """Thread-safe."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._versions: dict[Version, Staged] = {}
        self._held: Version | None = None
        self._lock = threading.Lock()

    def put(self, staged: StagedVersion, tensors: dict[str, torch.Tensor]) -> None:
        """Add a whole version; what nobody keeps or holds makes room for it."""
        with self._lock:
            self._versions[staged.version] = Staged(staged, tensors)
            self._drop_the_unneeded()

    def hold(self, version: Version) -> bool:
        """Keep `version` until it is taken or another one is to be held. False when it is not there (any more)."""
        with self._lock:
            self._held = version
            self._drop_the_unneeded()
            return version in self._versions

    def take(self, version: Version) -> dict[str, torch.Tensor]:
        """Hand a version over, by checkpoint name, and drop the older ones. Raises BroadcastError when it is not there."""
        with self._lock:
            if version not in self._versions:
                there = ", ".join(str(each) for each in sorted(self._versions)) or "none"
                raise BroadcastError(f"version {version} {NOT_STAGED} at {self._owner} (staged: {there})")
            taken = self._versions[version]
            self._versions = {each: staged for each, staged in self._versions.items() if each > version}
            return taken.tensors

    def drop(self, version: Version) -> None:
        """Do without `version`, whether it is kept, held or the newest."""
        with self._lock:
            self._versions.pop(version, None)

    def drop_until(self, version: Version) -> None:
        """Do without `version` and all older ones: the model has it from elsewhere."""
        with self._lock:
            self._versions = {each: staged for each, staged in self._versions.items() if each > version}

    def staged(self) -> tuple[StagedVersion, ...]:
        """What waits to be taken, oldest first."""
        with self._lock:
            return tuple(self._versions[version].staged for version in sorted(self._versions))

    def _drop_the_unneeded(self) -> None:
        newest = max(self._versions, default=None)
        self._versions = {version: each for version, each in self._versions.items() if each.staged.keep or version in (newest, self._held)}
