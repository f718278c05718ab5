"""A folder for the sockets of one engine, which nobody else's files share and which does not outlive the engine by much.

vLLM leaves its sockets behind where it is killed. So each engine's process makes a folder of its own and holds a lock in it; whoever starts or ends
something of a run here removes the folders whose lock nobody holds. Standard library alone.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "firesteel-engine-"
LOCK = "lock"


def make() -> Path:
    """A new folder, held until this process ends; those that ended engines left go."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    making = folder / "making"  # no lock before it is held
    descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # never closed: the lock ends with this process, however that ends
    making.rename(folder / LOCK)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep() -> None:
    """Remove the folders that nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except OSError:  # being made, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)
