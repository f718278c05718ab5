"""Laws of a live run whose generators come and go: minutes long, part of `make test-long`.

One run of the demo's task is scaled from one generator to three and back. Its engines are capped in tokens a second, so that the cores of the machine
are not the limit. Another one loses one of three generators in the middle of a broadcast.
"""

import itertools
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from whole_runs import ROOT, Finished, command, engine_of, follow, process_of, start, status

from benchmarks.audit import audit
from recipes.demo.base import Recipe, cached_base

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long]

WITHIN_S = 400.0
CAP = 1200
"""Tokens a second of one engine: some 40 rollouts of the demo."""


@dataclass
class Live:
    """A run in a process of its own, followed by a thread."""

    folder: Path
    settings: tuple[str, ...]
    ended: list[Finished] = field(default_factory=list)

    def __enter__(self) -> "Live":
        base = cached_base(Recipe(seed=0), Console(quiet=True))
        self.process = start(ROOT / "recipes" / "demo.toml", self.folder, f"model.policy={base}", *self.settings)
        self.reader = threading.Thread(target=lambda: self.ended.append(follow(self.process, self.folder)))
        self.reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.reader.join()

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which this holds."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline and not self.ended:
            try:
                seen = status(self.folder)
            except (OSError, ValueError):
                seen = {}
            if seen and holds(seen):
                return seen
            time.sleep(0.1)
        pytest.fail(f"the run did not come that far: {self.ended[0].said[-20:] if self.ended else 'too slow'}")

    def finish(self) -> Finished:
        self.reader.join(WITHIN_S)
        assert self.ended, "the run does not end"
        return self.ended[0]


def works(number: int, *, beyond: int = 0) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: seen["alive"]["generator"] == number and seen["step"] >= beyond


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, int]]:
    """A run that had one, three and again one generator, and the steps at which each began."""
    settings = (
        "run.num_steps=150", "run.eval_every_steps=0", "run.checkpoint_every_steps=20", "queue.keep_segments=true", "optimizer.learning_rate=1e-6",
        f"generators.max_tokens_per_second={CAP}", "weights.deadline_s=10",
    )  # fmt: skip
    with Live(tmp_path_factory.mktemp("runs") / "scaled", settings) as run:
        steps = {"one": run.until(works(1, beyond=3))["step"]}
        run.until(works(1, beyond=steps["one"] + 12))
        assert command("scale", str(run.folder), "--generators", "3").returncode == 0
        steps["three"] = run.until(works(3))["step"]
        steps["full"] = run.until(works(3, beyond=steps["three"] + 30))["step"]
        assert command("scale", str(run.folder), "--generators", "1").returncode == 0
        steps["one again"] = run.until(works(1))["step"]
        run.until(works(1, beyond=steps["one again"] + 15))
        finished = run.finish() if status(run.folder)["step"] > 140 else stopped(run)
    return finished, steps


def stopped(run: Live) -> Finished:
    assert command("stop", str(run.folder)).returncode == 0
    return run.finish()


def seconds_per_step(run: Finished, first: int, last: int) -> float:
    times = {line["step"]: line["time_s"] for line in run.lines("metrics.jsonl")}
    return statistics.median(times[step + 1] - times[step] for step in range(first, last))


def test_throughput_follows_the_number_of_generators(scaled: tuple[Finished, dict[str, int]]) -> None:
    run, steps = scaled
    one = seconds_per_step(run, steps["one"] + 2, steps["one"] + 10)
    three = seconds_per_step(run, steps["three"] + 8, steps["full"])
    again = seconds_per_step(run, steps["one again"] + 6, steps["one again"] + 14)
    assert one / three > 2.0, (one, three, again)
    assert again / three > 2.0, (one, three, again)


def test_scaling_loses_nothing_and_no_lease_expires(scaled: tuple[Finished, dict[str, int]]) -> None:
    run, _ = scaled
    report = audit(run.folder, run.folder)
    assert report.is_clean, report.findings
    counts = run.lines("metrics.jsonl")[-1]["queue"]
    assert counts["leases_ended"].get("sampling_expired", 0) == counts["leases_ended"].get("sampling_lost", 0) == 0
    assert counts["refused"] == dict.fromkeys(counts["refused"], 0)
    assert [event["name"] for event in run.lines("events.jsonl") if event["event"] == "lost"] == []


def test_the_learner_never_stops_while_generators_come_and_go(scaled: tuple[Finished, dict[str, int]]) -> None:
    run, steps = scaled
    times = [line["time_s"] for line in run.lines("metrics.jsonl") if steps["one"] < line["step"] <= steps["one again"] + 10]
    usual = seconds_per_step(run, steps["one"] + 2, steps["one"] + 10)
    assert max(after - before for before, after in itertools.pairwise(times)) < 5 * usual + 5


def test_a_run_that_was_told_to_stop_exits_with_0_and_can_be_resumed(scaled: tuple[Finished, dict[str, int]]) -> None:
    run, _ = scaled
    if run.summary["stopped"] == "interrupted":
        assert run.code == 0
        assert (run.folder / "checkpoints" / f"step-{run.summary['steps']:06d}" / "checkpoint.json").is_file()


def wait_for_silence(file: Path, seconds: float) -> None:
    """Until nothing was written for so long."""
    size, since = file.stat().st_size, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.02)
        if (now := file.stat().st_size) != size:
            size, since = now, time.monotonic()


def test_a_generator_killed_in_mid_broadcast_costs_one_deadline_and_the_others_get_the_version(tmp_path: Path) -> None:
    deadline_s = 8.0
    settings = ("run.num_steps=400", "run.eval_every_steps=0", "generators.count=3", f"weights.deadline_s={deadline_s}", "queue.keep_segments=true")
    with Live(tmp_path / "run", settings) as run:
        run.until(works(3, beyond=10))
        victim = engine_of(process_of(run.folder, "generator-2"))
        step = status(run.folder)["step"]
        os.kill(victim, signal.SIGSTOP)  # so that the next broadcast is surely under way when it dies
        wait_for_silence(run.folder / "events.jsonl", 1.5)
        os.kill(victim, signal.SIGKILL)
        run.until(lambda seen: seen["step"] > step + 20)
        finished = stopped(run)
    times = [line["time_s"] for line in finished.lines("metrics.jsonl") if step < line["step"] <= step + 20]
    assert max(after - before for before, after in itertools.pairwise(times)) < deadline_s + 5.0
    epochs = [set(event["members"]) for event in finished.lines("events.jsonl") if event["event"] == "epoch"]
    three = epochs.index({"generator-0.0", "generator-1.0", "generator-2.0"})
    assert epochs[three + 1] == {"generator-0.0", "generator-1.0"}
    assert audit(finished.folder, finished.folder).is_clean
