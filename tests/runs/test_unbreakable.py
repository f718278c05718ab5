"""Laws of a run whose processes are killed: nothing accepted is lost, nothing is trained twice, and the run goes on.

One run of the demo's task loses a generator, its queue and a learner rank; a checker that shares no code with the queue reads what it left. Another
one, in deterministic mode, loses its driver, is resumed, and must equal the run that nobody touched.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_deterministic_run import SETTINGS, facts, run_once
from whole_runs import ROOT, Finished, follow, process_of, start, status

from benchmarks.audit import audit
from benchmarks.chaos_parts.processes import below, held, scan, shared_memory
from recipes.demo.base import Recipe, cached_base

pytestmark = [pytest.mark.ray, pytest.mark.engine]

STEPS = 40


def kill(replica: str, seen: dict[int, str]) -> Callable[[Path], None]:
    """Kill a part of a run; add to `seen` what the run's processes have in shared memory by then."""

    def act(folder: Path) -> None:
        driver = json.loads((folder / "run.json").read_text())["pid"]
        ours = held(below(driver, scan()))
        seen.update({inode: name for inode, name in shared_memory().items() if inode in ours})
        os.kill(process_of(folder, replica), signal.SIGKILL)

    return act


@pytest.fixture(scope="module")
def seen() -> dict[int, str]:
    """What the battered run had in shared memory, by inode."""
    return {}


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory, seen: dict[int, str]) -> Finished:
    """A run that lost a generator at step 6, its queue at step 16, a learner rank at step 26."""
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    folder = tmp_path_factory.mktemp("runs") / "battered"
    process = start(
        ROOT / "recipes" / "demo.toml",
        folder,
        f"model.policy={base}",
        f"run.num_steps={STEPS}",
        "run.eval_every_steps=20",
        "run.checkpoint_every_steps=5",
        "generators.count=2",
        "learner.ranks=2",
        "queue.silence_s=15",
        "queue.keep_segments=true",
        "weights.deadline_s=10",
    )
    victims = {6: "generator-1", 16: "queue", 26: "learner-1"}
    acts = [(f"step {step}/{STEPS}", kill(victim, seen)) for step, victim in victims.items()]
    finished = follow(process, folder, acts=acts)
    assert finished.code == 0, finished.said[-30:]
    return finished


def test_a_run_that_lost_a_generator_its_queue_and_a_rank_finishes(battered: Finished) -> None:
    assert (battered.summary["stopped"], battered.summary["steps"]) == ("finished", STEPS)
    lost = [event["part"] for event in battered.lines("events.jsonl") if event["event"] == "lost"]
    assert sorted(set(lost)) == ["generator", "learner", "queue"]


def test_nothing_accepted_is_lost_and_nothing_is_trained_twice(battered: Finished) -> None:
    report = audit(battered.folder, battered.folder)
    assert report.accepted >= STEPS * 128
    assert report.is_clean, report.findings


def test_the_counts_add_up_across_the_deaths(battered: Finished) -> None:
    rollouts = battered.summary["rollouts"]
    assert rollouts["accepted"] == rollouts["consumed"] + sum(rollouts["dropped"].values()) + rollouts["held"]


def test_a_learner_that_comes_back_begins_the_next_lineage_at_its_checkpoint(battered: Finished) -> None:
    lineages = [(event["lineage"], event["step"]) for event in battered.lines("events.jsonl") if event["event"] == "lineage"]
    assert lineages[0] == (0, 0)
    assert [lineage for lineage, _ in lineages] == list(range(len(lineages)))
    assert len(lineages) == 2
    assert lineages[1][1] in (20, 25)


def test_a_run_that_lost_a_generator_leaves_nothing_in_shared_memory(battered: Finished, seen: dict[int, str]) -> None:
    assert battered.code == 0
    assert any("/sem." in name for name in seen.values())
    assert [name for inode, name in seen.items() if shared_memory().get(inode) == name] == []


def test_due_evaluations_are_made_once_in_the_lineage_that_survives(battered: Finished) -> None:
    found = [(line["step"], line["version"]) for line in battered.lines("evals.jsonl") if line["set"] == "heldout"]
    assert sorted({step for step, _ in found}) == [0, 20, STEPS]
    assert len(found) == len(set(found))


def test_a_killed_and_resumed_deterministic_run_equals_one_that_nobody_touched(tmp_path: Path) -> None:
    """Every process is killed at once, as when the host dies; the checkpoint is two steps old by then, the journal is not."""
    settings = ("run.num_steps=8", "run.checkpoint_every_steps=4", "rollout.group_size=32")
    untouched = run_once(tmp_path / "untouched", *settings)
    model, folder, pids = f"model.policy={tmp_path / 'untouched' / 'model'}", tmp_path / "killed", list[int]()
    driver = start(ROOT / "recipes" / "demo.toml", folder, *SETTINGS, model, *settings)

    def look(_: Path) -> None:
        pids.extend([process["pid"] for process in status(folder)["processes"]])

    def die(_: Path) -> None:
        for pid in (*pids, driver.pid):
            os.kill(pid, signal.SIGKILL)

    killed = follow(driver, folder, acts=[("step 1/8", look), ("step 6/8", die)])
    assert killed.code == -signal.SIGKILL
    resumed = follow(start(ROOT / "recipes" / "demo.toml", folder, *SETTINGS, model, *settings, resume="must"), folder)
    assert resumed.code == 0, resumed.said[-30:]
    assert [(event["lineage"], event["step"]) for event in resumed.lines("events.jsonl") if event["event"] == "lineage"] == [(0, 0), (1, 4)]
    assert losses(resumed) == losses(untouched)
    assert digests(resumed) == digests(untouched)
    assert completions(resumed) == completions(untouched)


def losses(run: Finished) -> dict[int, float]:
    """By step, of the lineage that survives: its lines come last."""
    return {line["step"]: line["loss"] for line in run.lines("metrics.jsonl")}


def digests(run: Finished) -> dict[int, str]:
    return {int(event["version"].partition(".")[2]): event["digest"] for event in run.lines("events.jsonl") if event["event"] == "published"}


def completions(run: Finished) -> list[Any]:
    """What was trained, without the number of the attempt: a place whose work was lost is sampled again, to the same completion."""
    return [[name.rpartition("/")[0], *rest] for name, *rest in facts(run)["rollouts"]]
