"""A folder for the sockets of one engine, which nobody else's files share and which does not outlive the engine by much.

vLLM leaves its sockets behind where it is killed, and its semaphores and blocks in shared memory, since what would clean them up is killed with it.
So each engine's process makes a folder of its own and holds a lock in it, and what is made in shared memory bears the folder's name; whoever starts
or ends something of a run here removes what belongs to folders that nobody holds any more. Standard library alone.
"""

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "firesteel-engine-"
LOCK = "lock"
SHARED_MEMORY = Path("/dev/shm")


def make() -> Path:
    """A new folder, held until this process ends; those that ended engines left go. The caller puts its path into the environment of the processes
    that it starts for the engine: they hold it too. Named semaphores of this process and of those are from now on named after it."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    making = folder / "making"  # no lock before it is held
    descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # never closed: the lock ends with this process, however that ends
    making.rename(folder / LOCK)
    multiprocessing.current_process()._config["semprefix"] = f"/{folder.name}"  # type: ignore[attr-defined] # children inherit it
    os.environ["SPT_NOENV"] = "1"  # vLLM would write the titles of its processes over their environment, and the folder's path with it
    atexit.register(_remove, folder)
    return folder


def sweep() -> None:
    """Remove the folders that nobody holds, and what is named after them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except OSError:  # being made, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _has_children(folder):
                _remove(folder)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    for file in SHARED_MEMORY.glob(f"*{folder.name}-*"):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _has_children(folder: Path) -> bool:
    """Whether a process with the folder in its environment lives: vLLM's, which outlives a killed one that started it by a moment."""
    ending = f"={folder}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            if any(entry.endswith(ending) for entry in environment.read_bytes().split(b"\0")):
                return True
    return False
