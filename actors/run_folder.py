"""The run folder: every file a run writes for people and commands, and how a command finds a live run through it.

Owns names and formats of the files. Called by the controller (writes) and the CLI (reads); knows no Ray. Only the host of the controller sees this
folder: actors hand their lines to the controller.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from actors.disk_space import checkpoints_bytes
from rlvr.config import Config
from rlvr.config_file import dump_config
from rlvr.errors import UserError

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
EVALUATIONS = "evals.jsonl"
EVENTS = "events.jsonl"
ROLLOUTS = "rollouts"
CHECKPOINTS = "checkpoints"
SUMMARY = "summary.json"
FAILURE = "failure.txt"
ADDRESS = "run.json"
MIN_FREE_BYTES = 256 * 2**20
"""A run is refused on a disk with less: logs, rollouts and a checkpoint of the smallest model need it."""


class RunAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a live run: its Ray, and the controller's HTTP address."""

    ray_address: str
    namespace: str
    service: str
    pid: int
    started: str


class RunFolder:
    """A run's folder, made once and never overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Make the folder with its resolved configuration. Raises UserError where it exists or cannot be written."""
        check_can_create(path, config)
        folder = cls(path)
        made: list[Path] = []
        try:
            for needed in (path, path / ROLLOUTS, folder.checkpoints(config.run.store)):
                _make(needed, made)
            (path / CONFIG).write_text(dump_config(config), encoding="utf-8")
        except OSError as error:
            _unmake(path, made)
            place = error.filename or path
            raise UserError(f"the run folder {path} cannot be made: {place}: {error.strerror}; choose another --run-dir or run.store") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that exists. Raises UserError where `path` is none."""
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is no run folder (it has no {CONFIG}); give the folder that `firesteel run` printed")
        return cls(path)

    def checkpoints(self, store: str) -> Path:
        """Where the run's checkpoints go: into its folder, or, with run.store, into a folder of the run's name there."""
        return (Path(store) / self.path.absolute().name if store else self.path.absolute()) / CHECKPOINTS

    def remove(self) -> None:
        """Take the folder away: the run was refused before it had begun."""
        shutil.rmtree(self.path)

    def append(self, name: str, record: Any) -> None:
        """Add one JSON line to metrics, evaluations or events."""
        with (self.path / name).open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")

    def event(self, kind: str, **facts: Any) -> None:
        """Add what happened, with the time, to events.jsonl."""
        self.append(EVENTS, {"time": _now(), "event": kind, **facts})

    def read(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a JSONL file; a last line that is still being written is left out."""
        file = self.path / name
        if not file.is_file():
            return []
        text = file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def write_json(self, name: str, record: Any) -> None:
        """Write a whole file at once: complete, or not there."""
        part = self.path / f".{name}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        os.replace(part, self.path / name)

    def write_failure(self, text: str) -> None:
        """The traceback of a run that failed."""
        (self.path / FAILURE).write_text(text, encoding="utf-8", errors="backslashreplace")

    def write_address(self, address: RunAddress) -> None:
        self.write_json(ADDRESS, address)

    def address(self) -> RunAddress | None:
        file = self.path / ADDRESS
        return msgspec.json.decode(file.read_bytes(), type=RunAddress) if file.is_file() else None

    def summary(self) -> dict[str, Any] | None:
        file = self.path / SUMMARY
        return json.loads(file.read_bytes()) if file.is_file() else None

    def write_rollouts(self, step: int, data: bytes, *, keep_bytes: float) -> int:
        """Keep one step's rollouts; the oldest files go until the folder is within `keep_bytes`. Returns how many went."""
        folder = self.path / ROLLOUTS
        part = folder / f".{step:08d}.part"
        part.write_bytes(data)
        os.replace(part, folder / f"{step:08d}.msgpack.zst")
        files = sorted(folder.glob("*.msgpack.zst"))
        sizes = [file.stat().st_size for file in files]
        excess, removed = sum(sizes) - keep_bytes, 0
        for file, size in zip(files[:-1], sizes[:-1], strict=True):
            if excess <= 0:
                break
            file.unlink()
            excess -= size
            removed += 1
        return removed

    def rollout_files(self, step: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The kept rollouts, (step, compressed bytes), oldest first."""
        for file in sorted((self.path / ROLLOUTS).glob("*.msgpack.zst")):
            number = int(file.name.partition(".")[0])
            if step is None or number == step:
                yield number, file.read_bytes()


def default_path(name: str) -> Path:
    """`runs/NAME-TIME`, of the local clock; what a file name cannot hold becomes a dash."""
    return Path("runs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_can_create(path: Path, config: Config) -> None:
    """Raise UserError where a run cannot write `path` or its checkpoints: there is something already, no folder can be made, or the disk is full.

    Of a model that is not here only the least of all runs is asked of the disk.
    """
    if _is_there(path, key="--run-dir"):
        raise UserError(f"the run folder {path} exists; choose another with --run-dir, or move it away (a run never overwrites one)")
    parent = _parent_to_write(path, what="the run folder")
    checkpoints = RunFolder(path).checkpoints(config.run.store)
    if not config.run.store:
        _check_free(parent, MIN_FREE_BYTES + (checkpoints_bytes(config) or 0), remedy="choose another --run-dir")
        return
    _check_free(parent, MIN_FREE_BYTES, remedy="choose another --run-dir")
    if _is_there(checkpoints, key="run.store"):
        raise UserError(f"run.store: {checkpoints} exists; choose another name with --run-dir, or move it away (a run never overwrites checkpoints)")
    _check_free(
        _parent_to_write(checkpoints, what="run.store: the folder"),
        max(MIN_FREE_BYTES, checkpoints_bytes(config) or 0),
        remedy="choose another run.store",
    )


def _is_there(path: Path, *, key: str) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, for example
        raise UserError(f"{key}: {path} cannot be made: {error.strerror}") from error


def _parent_to_write(path: Path, *, what: str) -> Path:
    """The nearest folder above `path` that exists. Raises UserError where nothing can be made in it."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"{what} {path} cannot be made: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{what} {path} cannot be made: {parent} is not writable")
    return parent


def _check_free(folder: Path, needed: int, *, remedy: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"the disk of {folder} has {_size(free)} free, this run's files and checkpoints need {_size(needed)}; free some, or {remedy}")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes >> 20} MiB"


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder that must not exist and the parents that it lacks; what was made is added to `made`, also where it ends in an OSError."""
    for missing in (*(parent for parent in reversed(folder.absolute().parents) if not parent.exists()), folder):
        missing.mkdir()
        made.append(missing)


def _unmake(path: Path, made: list[Path]) -> None:
    """Take back what a failed `create` has made; a folder into which somebody else has written stays."""
    if path in made:
        (path / CONFIG).unlink(missing_ok=True)
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
