"""Whole runs for tests: `firesteel` in a process of its own, as a user starts it, and what a user can see of it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
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


def start(run_file: Path, folder: Path, *settings: str) -> "subprocess.Popen[str]":
    """Start `firesteel run`; its progress comes line by line from stderr."""
    words = [word for setting in settings for word in ("--set", setting)]
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


def follow(process: "subprocess.Popen[str]", folder: Path, *, at: str = "", do: Callable[[Path], None] | None = None) -> Finished:
    """Read a run's progress until it ends; the first time a line holds `at`, call `do` with its folder."""
    finished = Finished(folder=folder, code=-1)
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            finished.said.append(line.rstrip())
            if do is not None and at in line:
                do(folder)
                do = None
    finished.code = process.returncode
    assert do is None, f"no line held {at!r}: {finished.said[-20:]}"
    return finished


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run another firesteel command to its end."""
    return subprocess.run([FIRESTEEL, *words], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, check=False)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
