"""Laws of a run's other ends, and of what a finished run is good for: minutes long, part of `make test-long`."""

import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console
from runs import ROOT, Finished, command, follow, start
from test_deterministic_run import facts, run_once

from recipes.demo.base import Recipe, cached_base

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long]


def processes_of(run: Path) -> list[int]:
    """Processes whose command line or environment names the run's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(run).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of the demo that gets Ctrl-C at step 9."""
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    process = start(ROOT / "recipes" / "demo.toml", folder, f"model.policy={base}", "evaluation.report=['last']")
    return follow(process, folder, at="step 9/60", do=lambda _: os.killpg(process.pid, signal.SIGINT))


def test_ctrl_c_leaves_a_checkpoint_and_a_summary_and_exits_with_130(interrupted: Finished) -> None:
    assert interrupted.code == 130
    summary = interrupted.summary
    assert (summary["stopped"], summary["error"]) == ("interrupted", None)
    assert 9 <= summary["steps"] < 60
    assert [folder.name for folder in (interrupted.folder / "checkpoints").iterdir()] == [f"step-{summary['steps']:06d}"]
    rollouts = summary["rollouts"]
    assert rollouts["accepted"] == rollouts["consumed"] + sum(rollouts["dropped"].values()) + rollouts["held"]
    assert processes_of(interrupted.folder) == []


def test_a_checkpoint_evaluates_to_what_the_run_measured(tmp_path: Path) -> None:
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    process = start(ROOT / "recipes" / "demo.toml", tmp_path / "run", f"model.policy={base}", "run.num_steps=20", "evaluation.report=['last']")
    finished = follow(process, tmp_path / "run")
    assert finished.code == 0, finished.said[-20:]
    heldout = ROOT / "recipes" / "demo" / "heldout.jsonl"
    words = ("eval", str(tmp_path / "run" / "checkpoints" / "step-000020"), str(heldout), "--run", str(ROOT / "recipes" / "demo.toml"))
    evaluated = command(*words, "--out", str(tmp_path / "answers.jsonl"))
    assert evaluated.returncode == 0, evaluated.stderr
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "correct" for line in lines) / len(lines) == finished.summary["accuracy_after"]


def test_two_deterministic_runs_are_equal_in_every_bit(tmp_path: Path) -> None:
    assert facts(run_once(tmp_path / "one")) == facts(run_once(tmp_path / "other"))


def test_a_generator_that_dies_ends_the_run_loudly(tmp_path: Path) -> None:
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    folder = tmp_path / "run"

    def kill(_: Path) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    name, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                except OSError:
                    continue
                if name.startswith(b"ray::GeneratorActor") and f"FIRESTEEL_TEST={tmp_path}".encode() in environment:
                    os.kill(int(entry.name), signal.SIGKILL)

    os.environ["FIRESTEEL_TEST"] = str(tmp_path)
    try:
        process = start(ROOT / "recipes" / "demo.toml", folder, f"model.policy={base}", "evaluation.report=['last']")
        finished = follow(process, folder, at="step 9/60", do=kill)
    finally:
        del os.environ["FIRESTEEL_TEST"]
    assert finished.code == 1
    assert (finished.summary["stopped"], "generator-0" in finished.summary["error"]) == ("failed", True)
    assert finished.summary["steps"] >= 9
