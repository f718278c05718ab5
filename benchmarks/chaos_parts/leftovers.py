"""What a run leaves behind on its machine: processes, sockets, shared memory.

Owns the looking after the end. Sockets are looked for in the run's own temporary folder; Ray's session folder there holds the sockets of a Ray that
was killed, as it does for everybody, and these are told apart.
"""

import stat
import time
from pathlib import Path

import msgspec

from benchmarks.chaos_parts.processes import Kin

PATIENCE_S = 20.0
"""Processes of a Ray that lost its driver end by themselves within some seconds."""
RAY_SESSIONS = "ray"


class Leftovers(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that should not be there."""

    processes: tuple[str, ...]
    sockets: tuple[str, ...]
    ray_sockets: int
    """In Ray's session folders: Ray's own litter, not counted against the run."""
    shared_memory: tuple[str, ...]

    @property
    def number(self) -> int:
        return len(self.processes) + len(self.sockets) + len(self.shared_memory)


def find_leftovers(kin: Kin, *, temporary: Path, shared_memory: set[str]) -> Leftovers:
    """Wait a moment for what ends by itself, then list the rest. shared_memory: files that the run's processes had open at some time."""
    ends = time.monotonic() + PATIENCE_S
    while (left := kin.living()) and time.monotonic() < ends:
        time.sleep(0.2)
    sockets = [path for path in temporary.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    ours = [path for path in sockets if path.relative_to(temporary).parts[0] != RAY_SESSIONS]
    return Leftovers(
        processes=tuple(f"{process.pid} {process.state} {process.title[:100]}" for process in left.values()),
        sockets=tuple(str(path.relative_to(temporary)) for path in ours),
        ray_sockets=len(sockets) - len(ours),
        shared_memory=tuple(sorted(name for name in shared_memory if Path(name).exists())),
    )
