"""Laws of a whole run: two generators, two verifiers and two learner ranks on one problem, every part real.

One run of the demo's task feeds all tests of this file; what a user can ask while it trains is asked at step 24.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from transformers import AutoModelForCausalLM
from whole_runs import ROOT, Finished, command, follow, get, start

from actors.run.rollout_files import KeptRollout, decompress
from learner.weights import digest
from recipes.demo.base import Recipe, cached_base
from rlvr.metrics import CATALOGUE, Role

pytestmark = [pytest.mark.ray, pytest.mark.engine]

SEEN: dict[str, Any] = {}
"""What was asked while the run trained."""


def look(folder: Path) -> None:
    service = json.loads((folder / "run.json").read_text())["service"]
    SEEN["targets"] = json.loads(get(f"{service}/sd"))
    SEEN["metrics"] = {target["labels"]["replica"]: get(f"http://{target['targets'][0]}/metrics") for target in SEEN["targets"]}
    SEEN["status"] = json.loads(command("status", str(folder), "--json").stdout)
    SEEN["status text"] = command("status", str(folder)).stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    base = cached_base(Recipe(seed=0), Console(quiet=True))
    folder = tmp_path_factory.mktemp("runs") / "full"
    process = start(
        ROOT / "recipes" / "demo.toml",
        folder,
        f"model.policy={base}",
        "generators.count=2",
        "verifiers.count=2",
        "verifiers.workers=2",
        "learner.ranks=2",
        "run.checkpoint_every_steps=40",
        "evaluation.report=['last', 'base_same_prompt']",
        "metrics.actor_port=21400",
    )
    finished = follow(process, folder, at="step 24/60", do=look)
    assert finished.code == 0, finished.said[-20:]
    return finished


@pytest.fixture(scope="module")
def rollouts(run: Finished) -> list[KeptRollout]:
    return [record for file in sorted((run.folder / "rollouts").glob("*.zst")) for record in decompress(file.read_bytes())]


def test_one_problem_raises_held_out_accuracy(run: Finished) -> None:
    before, after = run.summary["accuracy_before"], run.summary["accuracy_after"]
    assert 0.25 <= before <= 0.5
    assert after >= before + 0.4


def test_the_summary_has_its_keys_and_adds_up(run: Finished) -> None:
    summary = run.summary
    assert list(summary) == [
        "name", "steps", "versions_published", "accuracy_before", "accuracy_after", "train_accuracy_after", "rollouts", "tokens_generated",
        "staleness_max_seen", "verdicts", "processes", "seconds", "rollouts_per_second", "weights", "stopped", "error",
        "lineage", "resumes", "restarts", "cost", "usage",
    ]  # fmt: skip
    rollouts = summary["rollouts"]
    assert rollouts["accepted"] == rollouts["consumed"] + sum(rollouts["dropped"].values()) + rollouts["held"]
    assert rollouts["consumed"] + run.lines("metrics.jsonl")[-1]["queue"]["closed_members"] == 60 * 128
    assert sum(summary["verdicts"].values()) >= rollouts["consumed"]
    assert (summary["steps"], summary["versions_published"], summary["weights"]["versions"]) == (60, 61, 61)
    assert summary["processes"] == {"generators": 2, "verifiers": 2, "learner_ranks": 2}
    assert (summary["stopped"], summary["error"]) == ("finished", None)
    assert summary["weights"]["pause_seconds_max"] > 0
    assert summary["weights"]["bytes_sent"] > 0


def test_every_trained_rollout_was_trained_once_in_its_step(run: Finished, rollouts: list[KeptRollout]) -> None:
    assert len({record.id for record in rollouts}) == len(rollouts) == run.summary["rollouts"]["consumed"]
    assert Counter(line["rollouts"] for line in run.lines("metrics.jsonl")) == Counter(Counter(record.step for record in rollouts).values())


def test_weights_change_under_running_requests(rollouts: list[KeptRollout]) -> None:
    assert any(len(record.versions) > 1 for record in rollouts)


def test_staleness_stays_within_its_bound_and_is_used(run: Finished, rollouts: list[KeptRollout]) -> None:
    staleness = [record.step - 1 - min(int(version.split(".")[1]) for version, _, _ in record.versions) for record in rollouts]
    assert min(staleness) >= 0
    assert max(staleness) == run.summary["staleness_max_seen"] <= 2
    assert max(staleness) > 0, "an asynchronous run trains rollouts of older versions"


def shared_rarities(one: list[str], other: list[str]) -> float:
    """Of the completions that one engine drew exactly once, the share that the other drew too: 1 where both draw the same stream."""
    once = [text for text, count in Counter(one).items() if count == 1]
    assert len(once) >= 8
    return sum(text in other for text in once) / len(once)


def test_two_engines_never_draw_the_same_stream(rollouts: list[KeptRollout]) -> None:
    one, other = ([record.text for record in rollouts if record.generator == name][:256] for name in ("generator-0", "generator-1"))
    assert len(one) == len(other) == 256
    assert shared_rarities(one, one[::-1]) == 1.0
    assert shared_rarities(one, other) <= 0.7


def test_every_evaluation_is_of_one_version_and_none_is_missing(run: Finished) -> None:
    lines = run.lines("evals.jsonl")
    assert [(line["version"], line["set"]) for line in lines] == [(f"0.{step}", name) for step in range(0, 61, 5) for name in ("heldout", "train")]
    assert all(line["low"] <= line["accuracy"] <= line["high"] for line in lines)


def test_the_last_checkpoint_is_the_last_published_version_and_transformers_loads_it(run: Finished) -> None:
    assert sorted(folder.name for folder in (run.folder / "checkpoints").iterdir()) == ["step-000040", "step-000060"]
    model = AutoModelForCausalLM.from_pretrained(run.folder / "checkpoints" / "step-000060", dtype=torch.bfloat16)
    published = [event for event in run.lines("events.jsonl") if event["event"] == "published"]
    assert published[-1]["version"] == "0.60"
    assert digest(model.state_dict()) == published[-1]["digest"]


def test_service_discovery_finds_every_actor_and_each_serves_its_metrics(run: Finished) -> None:
    roles = Counter(target["labels"]["role"] for target in SEEN["targets"])
    assert roles == {"controller": 1, "queue": 1, "generator": 2, "verifier": 2, "learner": 2}
    for target in SEEN["targets"]:
        role, replica = target["labels"]["role"], target["labels"]["replica"]
        served = {family.name for family in text_string_to_metric_families(SEEN["metrics"][replica])}
        catalogue = {spec.name.removesuffix("_total") for spec in CATALOGUE if spec.role == Role(role)}
        told_by_rank_0 = role == "learner" and replica != "learner-0"
        assert {name for name in served if name.startswith("rlvr_")} == (set() if told_by_rank_0 else catalogue), replica
        assert "process_cpu_seconds" in served
        assert ("vllm:generation_tokens" in served) == (role == "generator")


def test_where_ranks_share_a_host_the_first_one_has_the_first_port(run: Finished) -> None:
    port = {target["labels"]["replica"]: int(target["targets"][0].rpartition(":")[2]) for target in SEEN["targets"]}
    assert 21400 <= port["learner-0"] < port["learner-1"] < 21500


def test_metrics_tell_what_happens(run: Finished) -> None:
    def value(replica: str, sample: str) -> float:
        return next(float(line.split()[-1]) for line in SEEN["metrics"][replica].splitlines() if line.startswith(sample))

    assert value("queue", "rlvr_rollouts_accepted_total") >= 24 * 128
    assert value("learner-0", "rlvr_learner_step") >= 24
    assert value("controller", 'rlvr_run_state{state="training"}') == 1
    assert sorted(value(f"generator-{index}", "rlvr_generator_evaluation_seconds_total") > 0 for index in (0, 1)) == [False, True], "one evaluates"
    assert value("learner-0", "rlvr_weight_bytes_sent_total") > 0
    assert all(value(f"generator-{index}", "rlvr_tokens_generated_total") > 0 for index in (0, 1))
    assert all(value(f"generator-{index}", "rlvr_weights_applied_total") > 1 for index in (0, 1))
    assert sum(value(f"verifier-{index}", 'rlvr_verdicts_total{kind="correct",stage="cache"}') for index in (0, 1)) > 0


def test_status_shows_a_live_run_and_its_end(run: Finished) -> None:
    live = SEEN["status"]["live"]
    assert live["step"] >= 24
    assert sum(live["queue"]["counts"]["slots"].values()) <= live["queue"]["counts"]["capacity"] == 3 * 128
    assert "slots of 384" in SEEN["status text"]
    assert "finished after 60 steps" in command("status", str(run.folder)).stdout


def test_what_the_model_said_can_be_read(run: Finished) -> None:
    wrong = command("rollouts", str(run.folder), "--step", "1", "--kind", "wrong")
    assert wrong.returncode == 0
    assert "step 1" in wrong.stdout
    assert "correct" not in wrong.stdout
    assert command("rollouts", str(run.folder), "--step", "999").returncode == 2
