"""The run folder: every file a run writes for people and commands, and how a command finds a live run through it.

Owns names and formats of the files. Called by the controller (writes) and the CLI (reads); knows no Ray. Only the host of the controller sees this
folder: actors hand their lines to the controller. A folder appears whole, with its configuration, or not at all.
"""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from actors.run.history import CONFIG, EVALUATIONS, EVENTS, FACTS, METRICS, FactsSoFar, decode_facts
from actors.run.place import check_can_create, default_path
from rlvr.config import Config
from rlvr.config_file import dump_config
from rlvr.errors import UserError
from rlvr.store import sync, whole_file

__all__ = ["CONFIG", "EVALUATIONS", "EVENTS", "METRICS", "RunAddress", "RunFolder", "check_can_create", "default_path"]

ROLLOUTS = "rollouts"
SUMMARY = "summary.json"
FAILURE = "failure.txt"
ADDRESS = "run.json"
UNWRITTEN_MOST = 10_000
"""Lines that wait for room on a full disk; beyond that the oldest are lost."""

logger = logging.getLogger(__name__)


class RunAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a live run: its Ray, and the controller's HTTP address."""

    ray_address: str
    namespace: str
    service: str
    pid: int
    started: str
    token: str = ""
    """Who knows it may stop and scale the run; only the run's own user can read the file."""


class RunFolder:
    """A run's folder, made once and never overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: deque[tuple[str, bytes]] = deque(maxlen=UNWRITTEN_MOST)

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Make the folder with its resolved configuration. Raises UserError where it exists or cannot be written."""
        check_can_create(path, config)
        making = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        made: list[Path] = []
        try:
            _make(making, made)
            (making / ROLLOUTS).mkdir()
            folder = cls(making)
            folder.write_config(config)
            folder.write_json(FACTS, FactsSoFar(name=config.run.name, num_steps=config.run.num_steps))
            making.rename(path)
        except OSError as error:
            _unmake(making, made)
            place = error.filename or path
            raise UserError(f"the run folder {path} cannot be made: {place}: {error.strerror}; choose another --run-dir") from error
        return cls(path)

    @classmethod
    def reopen(cls, path: Path, config: Config) -> "RunFolder":
        """The folder of a run that goes on with `config`: what said how it ended is taken away."""
        folder = cls.open(path)
        for name in (SUMMARY, FAILURE, ADDRESS):
            (path / name).unlink(missing_ok=True)
        (path / ROLLOUTS).mkdir(exist_ok=True)
        folder.write_config(config)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that exists. Raises UserError where `path` is none."""
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is no run folder (it has no {CONFIG}); give the folder that `firesteel run` printed")
        return cls(path)

    def remove(self) -> None:
        """Take the folder away: the run was refused before it had begun."""
        shutil.rmtree(self.path)

    def append(self, name: str, record: Any) -> None:
        """Add one JSON line to metrics, evaluations or events. Where the disk is full it waits in memory for the next one, which is said aloud."""
        self._unwritten.append((name, msgspec.json.encode(record) + b"\n"))
        try:
            while self._unwritten:
                self._add(*self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            logger.warning("%d lines of %s wait for room: %s", len(self._unwritten), self.path, error)

    def _add(self, name: str, line: bytes) -> None:
        """A last line that a crash or a full disk has cut is taken away first."""
        with (self.path / name).open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    _cut_torn_line(self.path / name)
            file.write(line)

    def event(self, kind: str, **facts: Any) -> None:
        """Add what happened, with the time, to events.jsonl."""
        self.append(EVENTS, {"time": _now(), "event": kind, **facts})

    def read(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a JSONL file; a last line that is still being written is left out."""
        file = self.path / name
        if not file.is_file():
            return []
        text = file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def write_json(self, name: str, record: Any) -> None:
        """Write a whole file at once: complete, or not there."""
        self._write_whole(name, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")

    def write_config(self, config: Config) -> None:
        self._write_whole(CONFIG, dump_config(config).encode())

    def write_failure(self, text: str) -> None:
        """The traceback of a run that failed."""
        (self.path / FAILURE).write_text(text, encoding="utf-8", errors="backslashreplace")

    def write_address(self, address: RunAddress) -> None:
        """Readable by this user alone: whoever has the token may stop the run."""
        with whole_file(self.path / ADDRESS) as part:
            part.touch(mode=0o600)
            part.write_bytes(msgspec.json.format(msgspec.json.encode(address), indent=2) + b"\n")

    def address(self) -> RunAddress | None:
        """Raises UserError for one that this user may not read, and for one that is damaged."""
        file = self.path / ADDRESS
        try:
            return msgspec.json.decode(file.read_bytes(), type=RunAddress)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise UserError(f"{file} cannot be read: the run is another user's, who alone may look at it, stop and scale it by its folder") from error
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read: {error}; a controller writes it anew when the run goes on by --resume must") from error

    def summary(self) -> dict[str, Any] | None:
        file = self.path / SUMMARY
        return json.loads(file.read_bytes()) if file.is_file() else None

    def facts(self) -> FactsSoFar | None:
        """What the run had come to when it was last kept. Raises UserError for facts of another format."""
        file = self.path / FACTS
        return decode_facts(file.read_bytes(), where=str(self.path)) if file.is_file() else None

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

    def _write_whole(self, name: str, data: bytes) -> None:
        """Durable too: a resume reads it."""
        with whole_file(self.path / name) as part:
            part.write_bytes(data)
            sync(part)
        sync(self.path)

    def rollout_files(self, step: int | None = None) -> Iterator[tuple[int, bytes]]:
        """The kept rollouts, (step, compressed bytes), oldest first."""
        for file in sorted((self.path / ROLLOUTS).glob("*.msgpack.zst")):
            number = int(file.name.partition(".")[0])
            if step is None or number == step:
                yield number, file.read_bytes()


def _cut_torn_line(file: Path) -> None:
    whole = file.read_bytes()
    kept = whole.rfind(b"\n") + 1
    logger.warning("%s: a last line of %d bytes, cut by a crash or a full disk, is taken away", file, len(whole) - kept)
    os.truncate(file, kept)


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder that must not exist and the parents that it lacks; what was made is added to `made`, also where it ends in an OSError."""
    for missing in (*(parent for parent in reversed(folder.absolute().parents) if not parent.exists()), folder):
        missing.mkdir()
        made.append(missing)


def _unmake(making: Path, made: list[Path]) -> None:
    """Take back what a failed `create` has made; a parent into which somebody else has written stays."""
    if making in made:
        shutil.rmtree(making)
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
