"""`firesteel stop RUN_DIR`: end a live run in good order, from any terminal of its host.

Owns the command's words. The controller does what Ctrl-C makes it do: a last checkpoint, then the end.
"""

from pathlib import Path

from rich.console import Console

from actors.run.folder import RunFolder
from actors.run.live_run import steer


def stop(run_dir: Path) -> None:
    """Ask the run to stop; returns before it has. Raises UserError where it is over or does not answer."""
    folder = RunFolder.open(run_dir)
    steer(folder, "stop", {})
    Console().print(
        f"{folder.path}: stopping: a last checkpoint is written, then everything ends; "
        f"`firesteel run RUN.toml --run-dir {folder.path} --resume must` goes on with it",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
