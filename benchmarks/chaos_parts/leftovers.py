"""What a run leaves behind on its machine: processes, sockets, shared memory.

Owns the looking after the end. Sockets are looked for in the run's own temporary folder; Ray's session folder there holds the sockets of a Ray that
was killed, as it does for everybody, and these are told apart. Shared memory is the run's if it was not there before the run and if no living process
of others has it: whoever made it may have lived too shortly to be seen.
"""

import stat
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from benchmarks.chaos_parts.processes import Kin, held, scan, shared_memory

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


def find_leftovers(kin: Kin, *, temporary: Path, before: Mapping[int, str]) -> Leftovers:
    """Wait a moment for what ends by itself, then list the rest. before: shared memory as it was before the run."""
    ends = time.monotonic() + PATIENCE_S
    while (left := kin.living()) and time.monotonic() < ends:
        time.sleep(0.2)
    sockets = [path for path in temporary.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    ours = [path for path in sockets if path.relative_to(temporary).parts[0] != RAY_SESSIONS]
    return Leftovers(
        processes=tuple(f"{process.pid} {process.state} {process.title[:100]}" for process in left.values()),
        sockets=tuple(str(path.relative_to(temporary)) for path in ours),
        ray_sockets=len(sockets) - len(ours),
        shared_memory=left_in_shared_memory(before, of_run=left),
    )


def left_in_shared_memory(before: Mapping[int, str], *, of_run: Collection[int] = ()) -> tuple[str, ...]:
    """Files that were not there before and that no living process holds but those of the run, given by pid."""
    others = held(process for pid, process in scan().items() if pid not in of_run)
    return tuple(sorted(name for inode, name in shared_memory().items() if before.get(inode) != name and inode not in others))
