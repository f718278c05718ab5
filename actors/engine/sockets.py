"""A folder for the sockets of one engine, which nobody else's files share and which does not outlive the engine by much.

vLLM leaves its sockets behind where it is killed, and its semaphores in shared memory, since what would clean them up is killed with it. So each
engine's process makes a folder of its own, notes its semaphores there and holds a lock in it; whoever starts or ends something of a run here removes
what belongs to folders whose lock nobody holds. Standard library alone.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "firesteel-engine-"
LOCK = "lock"
SEMAPHORES = "semaphores"
SHARED_MEMORY = Path("/dev/shm")
_own: list[Path] = []


def make() -> Path:
    """A new folder, held until this process ends; those that ended engines left go."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    making = folder / "making"  # no lock before it is held
    descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # never closed: the lock ends with this process, however that ends
    making.rename(folder / LOCK)
    _own.append(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def note_semaphores() -> None:
    """Write down the named semaphores that this process and those of its engine have mapped, once the engine stands. They are told by their inodes:
    glibc maps them under another name before it gives them theirs."""
    mapped: set[int] = set()
    for pid in _family(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            mapped |= {int(line.split(maxsplit=5)[4]) for line in maps if f"{SHARED_MEMORY}/sem." in line}
    with os.scandir(SHARED_MEMORY) as there:
        names = {file.name for file in there if file.name.startswith("sem.mp-") and file.inode() in mapped}
    for folder in _own:
        (folder / SEMAPHORES).write_text("\n".join(sorted(names)))


def sweep() -> None:
    """Remove the folders that nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except OSError:  # being made, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink_semaphores(folder)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _unlink_semaphores(folder: Path) -> None:
    noted = folder / SEMAPHORES
    for name in noted.read_text().split() if noted.is_file() else ():
        if name.startswith("sem.mp-"):
            (SHARED_MEMORY / name).unlink(missing_ok=True)


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                found += _family(int(child))
    return found
