"""A `firesteel run` whose driver lives on the head of a cluster, and what can be seen of it while it goes on.

Everything is asked over the head's network, as an operator would: service discovery, status, metrics. Its folder is on the head's disk alone.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from hosts import Host, until
from whole_runs import FIRESTEEL, ROOT, Finished, get

from actors.run.rollout_files import KeptRollout, decompress
from recipes.demo.base import Recipe, make_model, save

SETTINGS = (
    "metrics.bind=0.0.0.0", "run.eval_every_steps=0", "run.checkpoint_every_steps=10", "rollout.group_size=32", "rollout.max_completion_tokens=24",
    "evaluation.max_completion_tokens=8", "reward.kind=random", "queue.keep_segments=true", "queue.silence_s=15", "weights.deadline_s=10",
    "generators.labels={'rlvr.io/role' = 'generator'}", "learner.labels={'rlvr.io/role' = 'learner'}", "verifiers.labels={'rlvr.io/role' = 'head'}",
)  # fmt: skip
START_S = 240.0
IN_FLIGHT = 3


@functools.cache
def model_in(folder: Path) -> Path:
    """The demo's model as it is before pretraining, where every host sees it, as an image or a hub's cache would have it."""
    torch.manual_seed(0)
    recipe = Recipe(seed=7)
    save(folder / "model", make_model(recipe), recipe)
    return folder / "model"


class Head(Protocol):
    """Where the driver lives."""

    @property
    def ray_address(self) -> str: ...
    def command(self, *words: str) -> list[str]: ...
    def environment(self) -> dict[str, str]: ...
    def network(self) -> contextlib.AbstractContextManager[None]: ...


class LiveRun:
    """One run, from its start to its end. A context manager: no process of its driver is left when it ends."""

    def __init__(self, head: Head, folder: Path, *settings: str, model: Path) -> None:
        words = [word for setting in (f"model.policy={model}", *SETTINGS, *settings) for word in ("--set", setting)]
        self.folder = folder
        self.head = head
        self.said: list[str] = []
        self.process = subprocess.Popen(
            head.command(FIRESTEEL, "run", str(ROOT / "recipes" / "demo.toml"), "--run-dir", str(folder), *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=head.environment() | {"RAY_ADDRESS": head.ray_address},
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *_: object) -> None:
        """What is left of it ends."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its driver, too, has the pipe that is read here
        self.process.wait()
        self._reader.join(timeout=10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def status(self) -> dict[str, Any]:
        """What the run says of itself; empty where it does not answer yet."""
        address = self.folder / "run.json"
        if not address.is_file():
            return {}
        with self.head.network():
            try:
                return dict(json.loads(get(f"{json.loads(address.read_text())['service']}/status")))
            except OSError:
                return {}

    @property
    def step(self) -> int:
        """The last step trained, from the run folder."""
        return int(self.lines("metrics.jsonl")[-1]["step"]) if (self.folder / "metrics.jsonl").is_file() else 0

    def lines(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.is_file() else []

    def events(self, kind: str, *, since: float = 0.0) -> list[dict[str, Any]]:
        """Of that kind and not older than `since`, in seconds of the clock."""
        return [event for event in self.lines("events.jsonl") if event["event"] == kind and seconds_of(event) >= since]

    def leases_of(self, worker: str) -> int:
        """Completions that this worker has been given and has not brought."""
        return sum(lease["members"] for lease in (self.status().get("queue") or {}).get("leases", []) if lease["worker"] == worker)

    def measured(self, replica: str, metric: str) -> float:
        """The sum of a part's metric, as it serves it; 0 where nobody does."""
        address = next((actor["address"] for actor in self.status().get("actors", []) if actor["replica"] == replica), None)
        if address is None:
            return 0.0
        with self.head.network():
            try:
                page = get(f"http://{address}/metrics")
            except OSError:
                return 0.0
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((f"{metric}{{", f"{metric} ")))

    def worker_on(self, host: Host) -> str:
        """The generator that stands on a host, by its worker name; "" where none does."""
        status = self.status()
        here = {
            actor["replica"] for actor in status.get("actors", []) if actor["role"] == "generator" and actor["address"].startswith(f"{host.address}:")
        }
        return next((process["name"] for process in status.get("processes", []) if process["replica"] in here), "")

    def holds_in_flight(self, engine: int, replica: str) -> bool:
        """Stop an engine; True where it holds completions that it has begun, else it goes on."""
        finished, in_flight = "rlvr_rollouts_generated_total", "rlvr_requests_in_flight"
        before = self.measured(replica, finished)
        if self.measured(replica, in_flight) < IN_FLIGHT:
            return False
        os.kill(engine, signal.SIGSTOP)
        if self.measured(replica, finished) == before and self.measured(replica, in_flight) >= IN_FLIGHT:
            return True
        os.kill(engine, signal.SIGCONT)
        return False

    def reach(self, step: int, *, within_s: float) -> None:
        """Wait until that step is trained."""
        self.until(lambda: self.step >= step, within_s=within_s, what=f"step {step} (it is at {self.step})")

    def until(self, condition: Any, *, within_s: float, what: str) -> Any:
        """As `hosts.until`, while the run lives."""

        def still() -> Any:
            assert self.process.poll() is None, f"the run has ended before: {what}\n" + "\n".join(self.said[-30:])
            return condition()

        return until(still, within_s=within_s, what=what)

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Another command of firesteel, on the head."""
        return subprocess.run(
            self.head.command(FIRESTEEL, *words), capture_output=True, text=True, env=self.head.environment(), check=False, timeout=120
        )

    def ended(self, *, within_s: float) -> Finished:
        """Wait for its end."""
        code = self.process.wait(timeout=within_s)
        self._reader.join(timeout=10)
        return Finished(folder=self.folder, code=code, said=self.said)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(f"{time.strftime('%H:%M:%S')} {line.rstrip()}")


def seconds_of(event: dict[str, Any]) -> float:
    """An event's time, in seconds of the clock."""
    return datetime.fromisoformat(event["time"]).timestamp()


def trained(folder: Path, *, after: int = 0) -> list[KeptRollout]:
    """The kept rollouts of every step after `after`."""
    files = [file for file in sorted((folder / "rollouts").glob("*.zst")) if int(file.name.partition(".")[0]) > after]
    return [record for file in files for record in decompress(file.read_bytes())]


def samplers(folder: Path, *, after: int) -> set[str]:
    """Who has sampled what later steps have trained."""
    return {record.generator for record in trained(folder, after=after)}
