"""`firesteel scale RUN_DIR --generators N --verifiers N`: more or fewer workers in a live run.

Owns the command's words. The controller decides what may be and starts or takes leave of actors; this only says how many are wanted.
"""

from pathlib import Path

from rich.console import Console

from actors.run.folder import RunFolder
from actors.run.live_run import steer
from rlvr.errors import UserError


def scale(run_dir: Path, *, generators: int | None, verifiers: int | None) -> None:
    """Say how many workers the run is to have; returns before it has them. Raises UserError with the controller's refusal."""
    wanted = {key: number for key, number in (("generators", generators), ("verifiers", verifiers)) if number is not None}
    if not wanted:
        raise UserError("scale to how many? Give --generators N, --verifiers N or both")
    folder = RunFolder.open(run_dir)
    done = steer(folder, "scale", wanted)
    numbers = ", ".join(f"{number} {role}{'s' if number != 1 else ''}" for role, number in done.get("wanted", {}).items())
    Console().print(f"{folder.path}: {numbers} wanted; `firesteel status` shows who has come", markup=False, highlight=False, soft_wrap=True)
