"""Laws of a run's other ends, and of what a finished run is good for: minutes long, part of `make test-long`."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from test_deterministic_run import facts, run_once
from whole_runs import ROOT, Finished, command, follow, start

from recipes.demo.base import Recipe, cached_base

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.long]


MARK = "FIRESTEEL_TEST"
"""Every process of a run inherits it from the command that started the run."""


def processes_of(mark: str, *, named: bytes = b"") -> list[int]:
    """Processes, other than this one, that carry the mark in their environment and whose command line begins with `named`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command_line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if command_line.startswith(named) and f"{MARK}={mark}".encode() in environment:
                found.append(int(entry.name))
    return found


def demo_run(folder: Path, *settings: str, at: str = "", do: Callable[[int], None] | None = None) -> Finished:
    """A run of the demo whose processes carry its folder's name as mark; `do` gets the process id of the command."""
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    os.environ[MARK] = str(folder)
    try:
        process = start(ROOT / "recipes" / "demo.toml", folder, f"model.policy={base}", "evaluation.report=['last']", *settings)
        return follow(process, folder, at=at, do=(lambda _: do(process.pid)) if do is not None else None)
    finally:
        del os.environ[MARK]


def interrupt(process: int) -> None:
    os.killpg(process, signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint_and_a_summary_and_exits_with_130(tmp_path: Path) -> None:
    seen: list[int] = []

    def look_and_interrupt(process: int) -> None:
        seen.extend(processes_of(str(tmp_path / "run"), named=b"ray::"))
        interrupt(process)

    interrupted = demo_run(tmp_path / "run", at="step 9/60", do=look_and_interrupt)
    assert len(seen) >= 4, "the mark is seen on the actors"
    assert interrupted.code == 130
    summary = interrupted.summary
    assert (summary["stopped"], summary["error"]) == ("interrupted", None)
    assert 9 <= summary["steps"] < 60
    assert [folder.name for folder in (interrupted.folder / "checkpoints").iterdir()] == [f"step-{summary['steps']:06d}"]
    rollouts = summary["rollouts"]
    assert rollouts["accepted"] == rollouts["consumed"] + sum(rollouts["dropped"].values()) + rollouts["held"]
    assert processes_of(str(tmp_path / "run")) == []


def test_ctrl_c_while_the_actors_start_leaves_a_summary_and_exits_with_130(tmp_path: Path) -> None:
    interrupted = demo_run(tmp_path / "run", at="starting:", do=interrupt)
    assert interrupted.code == 130
    assert (interrupted.summary["stopped"], interrupted.summary["steps"]) == ("interrupted", 0)
    assert processes_of(str(tmp_path / "run")) == []


def test_a_checkpoint_evaluates_to_what_the_run_measured(tmp_path: Path) -> None:
    finished = demo_run(tmp_path / "run", "run.num_steps=20")
    assert finished.code == 0, finished.said[-20:]
    heldout = ROOT / "recipes" / "demo" / "heldout.jsonl"
    words = ("eval", str(tmp_path / "run" / "checkpoints" / "step-000020"), str(heldout), "--run", str(ROOT / "recipes" / "demo.toml"))
    evaluated = command(*words, "--out", str(tmp_path / "answers.jsonl"))
    assert evaluated.returncode == 0, evaluated.stderr
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "correct" for line in lines) / len(lines) == finished.summary["accuracy_after"]


def test_two_deterministic_runs_are_equal_in_every_bit(tmp_path: Path) -> None:
    assert facts(run_once(tmp_path / "one")) == facts(run_once(tmp_path / "other"))


def test_deterministic_runs_are_equal_with_evaluations_on_the_way_and_several_groups(tmp_path: Path) -> None:
    """Two problems, two copies each, two updates a step, recomputed logprobs, an evaluation after every step."""
    settings = (
        "run.eval_every_steps=1",
        "prompts.problems=['dec-69-59', 'dec-62-57']",
        "prompts.copies_per_step=2",
        "rollout.group_size=4",
        "advantage.group_by=copy",
        "optimizer.updates_per_step=2",
        "objective.old_logprobs=recomputed",
        "objective.aggregation=micro_batch_token_mean",
    )
    assert facts(run_once(tmp_path / "one", *settings)) == facts(run_once(tmp_path / "other", *settings))


def test_a_generator_that_dies_once_too_often_ends_the_run_loudly(tmp_path: Path) -> None:
    def kill(_: int) -> None:
        [generator] = processes_of(str(tmp_path / "run"), named=b"ray::GeneratorActor")
        os.kill(generator, signal.SIGKILL)

    finished = demo_run(tmp_path / "run", "run.max_restarts=0", at="step 9/60", do=kill)
    assert finished.code == 1
    assert (finished.summary["stopped"], "generator-0" in finished.summary["error"]) == ("failed", True)
    assert finished.summary["steps"] >= 9
    assert finished.summary["rollouts"]["consumed"] >= 9 * 128
    assert processes_of(str(tmp_path / "run")) == []
