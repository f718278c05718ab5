"""Whole runs for tests: `firesteel` in a process of its own, as a user starts it, and what a user can see of it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIRESTEEL = str(Path(sys.executable).with_name("firesteel"))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Finished:
    """A run that has ended."""

    folder: Path
    code: int
    said: list[str] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text()))

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


def start(run_file: Path, folder: Path, *settings: str, resume: str = "") -> "subprocess.Popen[str]":
    """Start `firesteel run`; its progress comes line by line from stderr."""
    words = [word for setting in settings for word in ("--set", setting)] + (["--resume", resume] if resume else [])
    return subprocess.Popen(
        [FIRESTEEL, "run", str(run_file), "--run-dir", str(folder), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        process_group=0,
    )


def follow(
    process: "subprocess.Popen[str]",
    folder: Path,
    *,
    at: str = "",
    do: Callable[[Path], None] | None = None,
    acts: Sequence[tuple[str, Callable[[Path], None]]] = (),
) -> Finished:
    """Read a run's progress until it ends; the first time a line holds `at`, call `do` with its folder. acts: several of these, in order."""
    finished = Finished(folder=folder, code=-1)
    left = [*acts] if do is None else [(at, do), *acts]
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            finished.said.append(line.rstrip())
            if left and left[0][0] in line:
                left.pop(0)[1](folder)
    finished.code = process.returncode
    assert not left, f"no line held {left[0][0]!r}: {finished.said[-20:]}"
    return finished


def status(folder: Path) -> dict[str, Any]:
    """What a live run says of itself."""
    address = json.loads((folder / "run.json").read_text())
    live = dict(json.loads(get(f"{address['service']}/status")))
    assert live["started"] == address["started"], "`firesteel status` would take it for another run"
    return live


def process_of(folder: Path, replica: str) -> int:
    """The process id of one part of a live run."""
    return int(next(process["pid"] for process in status(folder)["processes"] if process["replica"] == replica))


def engine_of(actor: int) -> int:
    """The process of its engine, in which weights are received."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                name = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == actor and b"EngineCore" in name:
                return int(entry.name)
    raise AssertionError(f"process {actor} has no engine")


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run another firesteel command to its end."""
    return subprocess.run([FIRESTEEL, *words], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, check=False)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
