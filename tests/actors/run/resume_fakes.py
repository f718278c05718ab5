"""What the tests of `--resume` share: a run file of either kind, a run that ended in some way, and all that lies in a folder."""

from pathlib import Path
from typing import Any

import msgspec

from actors.run.history import FactsSoFar
from actors.run.lock import LOCK, Lock
from actors.run.resume import Mode, OpenRun
from rlvr.config import Config

PLACES = ("in the run folder", "in a store")
MODES: tuple[Mode, ...] = ("must", "auto")


def config(store: Path | str = "", **tables: dict[str, Any]) -> Config:
    run = {"store": str(store), "name": "r", "num_steps": 10, **tables.pop("run", {})}
    return msgspec.convert({"run": run, **tables}, Config)


def config_at(place: str, tmp_path: Path) -> Config:
    """A run file of either kind; the run folder is `tmp_path / "run"`."""
    return config(tmp_path / "store" if place == "in a store" else "")


def ended(run: OpenRun, stopped: str | None, *, steps: int = 4) -> None:
    """How a controller leaves its run; None = by SIGKILL."""
    facts = FactsSoFar(name="r", stopped=stopped, steps=steps, num_steps=10, training_seconds=50.0)
    run.save(facts)
    if stopped is None:  # as if its process had died
        lock = msgspec.json.decode(run.store.read(LOCK), type=Lock)
        run.store.write(LOCK, msgspec.json.encode(msgspec.structs.replace(lock, owner=msgspec.structs.replace(lock.owner, pid=2**22 + 1))))
    else:
        run.lock.release()


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
