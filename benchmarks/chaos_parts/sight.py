"""What can be seen of a run from outside: its HTTP status, its run folder, its store.

Owns the reading and the waiting for moments; changes nothing. Whatever does not answer within a moment is not seen now: a queue or a driver that
lies dead is no error here.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.chaos_parts.schedule import Moment

STATUS_S = 4.0
MOMENT_S = {Moment.BROADCAST: 30.0, Moment.CHECKPOINT: 60.0, Moment.FSYNC: 20.0}
"""So long is waited for a chosen moment; then the strike falls all the same."""
LOOK_S = 0.002

Status = dict[str, Any]


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """One actor as the status lists it."""

    role: str
    replica: str
    pid: int
    name: str = ""


class JsonLines:
    """A JSONL file that grows: `read` takes in what is new."""

    def __init__(self, file: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._file = file
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """Every whole line so far; one that a killed driver has cut is left out."""
        if self._file.is_file() and self._file.stat().st_size > self._offset:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    continue
        return self.lines


class Sight:
    """One run, seen from outside."""

    def __init__(self, run_dir: Path, store: Path) -> None:
        self.run_dir = run_dir
        self.store = store
        self._metrics = JsonLines(run_dir / "metrics.jsonl")
        self._events = JsonLines(run_dir / "events.jsonl")

    @property
    def journal(self) -> Path:
        return self.store / "journal"

    def status(self) -> Status | None:
        """What the controller says now; None where it does not."""
        try:
            service = json.loads((self.run_dir / "run.json").read_bytes())["service"]
            with urllib.request.urlopen(f"{service}/status", timeout=STATUS_S) as answer:
                live = json.load(answer)
                return live if isinstance(live, dict) else None
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            return None

    def steps(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: the trained steps, in the order in which they were trained."""
        return self._metrics.read()

    def events(self) -> list[dict[str, Any]]:
        return self._events.read()

    def await_moment(self, moment: Moment, *, is_over: Callable[[], bool]) -> bool:
        """Wait until the moment is there. False where it did not come in time, or the run ended meanwhile; `any` is always there."""
        seen = {
            Moment.ANY: lambda: True,
            Moment.BROADCAST: self._changed(self._trained_bytes),
            Moment.CHECKPOINT: self._is_saving,
            Moment.FSYNC: self._changed(self._journal_end),
        }[moment]
        ends = time.monotonic() + MOMENT_S.get(moment, 0.0)
        while not seen():
            if time.monotonic() > ends or is_over():
                return False
            time.sleep(LOOK_S)
        return True

    def is_broadcasting(self) -> bool:
        """Whether a trained step is not published yet."""
        steps, published = self.steps(), [event for event in self.events() if event.get("event") == "published"]
        return bool(steps) and (not published or str(published[-1]["version"]) != f"{steps[-1]['lineage']}.{steps[-1]['step']}")

    def _changed(self, look: Callable[[], tuple[str, int]]) -> Callable[[], bool]:
        before = look()
        return lambda: look() != before

    def _trained_bytes(self) -> tuple[str, int]:
        """Changes with a trained step, whose weights are on their way from then on, and with a version that enters the version log."""
        metrics, versions = self.run_dir / "metrics.jsonl", self.store / "versions"
        newest = max(names(versions), default="")
        return newest, metrics.stat().st_size if metrics.is_file() else 0

    def _journal_end(self) -> tuple[str, int]:
        """Newest segment and its size: it grows by one write of a group commit, which is synced and acknowledged after that."""
        segments = [name for name in names(self.journal) if name.endswith(".journal")]
        if not segments:
            return "", 0
        newest = max(segments)
        try:
            return newest, (self.journal / newest).stat().st_size
        except FileNotFoundError:
            return newest, 0

    def _is_saving(self) -> bool:
        """A checkpoint is being written: a folder that is hidden, partial, or has no marker yet."""
        folder = self.store / "checkpoints"
        return any("." in name or not (folder / name / "checkpoint.json").is_file() for name in names(folder))


def names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def actors_of(status: Status) -> list[Actor]:
    """The actors that a status lists with their pids, under whatever key."""
    found = []
    for value in status.values():
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict) and isinstance(item.get("pid"), int) and "role" in item:
                found.append(Actor(role=item["role"], replica=item.get("replica", ""), pid=item["pid"], name=item.get("name", "")))
    return found


def counts_of(status: Status | None) -> dict[str, Any] | None:
    """The queue's counts, where it answers."""
    queue = (status or {}).get("queue")
    return queue["counts"] if queue else None
