"""Two FSDP ranks in two processes do what one rank does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_scenarios import CASES, HOSTS, SCENARIOS, main, outcome, run_config
from tiny_models import batch, learner, qwen2, save, whole_weights

from learner import process_group
from learner.checkpoint import Checkpoints
from rlvr.records import Version
from rlvr.store import FolderStore

pytestmark = pytest.mark.processes

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(qwen2(hidden=64, vocab=63), folder / "untied")  # rows that two ranks do not share evenly
    save(qwen2(hidden=64, vocab=63, tied=True), folder / "tied")
    return folder


@pytest.fixture(scope="module")
def out(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, this one as rank 0: rank0.pt, rank1.pt and a store of each of HOSTS."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("rank_scenarios.py")
    port = process_group.open_store("127.0.0.1").port
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen([sys.executable, str(script), "1", str(WORLD_SIZE), str(port), str(models), str(folder)], env=environment)
    try:
        main(0, WORLD_SIZE, port, models, folder)
    finally:
        process_group.leave()
        code = other.wait(timeout=300)
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def two_ranks(out: Path) -> list[dict[str, Any]]:
    return [torch.load(out / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_two_ranks_take_the_steps_of_one(name: str, model: str, models: Path, two_ranks: list[dict[str, Any]], alone: None) -> None:
    one = outcome(models / model, SCENARIOS[name], rank=0, world_size=1)
    for rank in range(WORLD_SIZE):
        two = two_ranks[rank][f"{model}, {name}"]
        for weight_name, weight in one["weights"].items():
            torch.testing.assert_close(two["weights"][weight_name], weight, atol=1e-6, rtol=0)
        for ours, alone in zip(two["facts"], one["facts"], strict=True):
            assert ours == pytest.approx(alone, rel=1e-3, abs=1e-6)


def test_only_rank_0_publishes(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (made["tied, every term"] for made in two_ranks)
    assert second["published"] is None
    for name, tensor in first["published"].items():
        assert torch.equal(tensor, first["weights"][name].to(torch.bfloat16))


@pytest.mark.parametrize("name", HOSTS)
def test_two_ranks_killed_and_resumed_are_two_ranks_uninterrupted_bit_for_bit(name: str, out: Path, two_ranks: list[dict[str, Any]]) -> None:
    for rank in range(WORLD_SIZE):
        made = two_ranks[rank][name]
        assert made["restored"] == "0.3"
        assert all(torch.equal(weight, made["resumed"][key]) for key, weight in made["uninterrupted"].items())
        assert not any(torch.equal(weight, made["saved"][key]) for key, weight in made["resumed"].items())
    assert [path.name for path in (out / name / "checkpoints").iterdir()] == ["step-000003"]


@pytest.mark.parametrize("name", HOSTS)
def test_one_rank_resumes_what_two_ranks_saved(name: str, models: Path, out: Path, two_ranks: list[dict[str, Any]], alone: None) -> None:
    ours = learner(run_config(models / "tied", SCENARIOS["two updates"]))
    assert Checkpoints(ours, FolderStore(out / name)).load().version == Version(step=3)
    assert all(torch.equal(weight, two_ranks[0][name]["saved"][key]) for key, weight in whole_weights(ours).items())
    for step in (4, 5, 6):
        ours.train_step(batch(step=step))
    for key, weight in whole_weights(ours).items():
        torch.testing.assert_close(two_ranks[1][name]["resumed"][key], weight, atol=1e-6, rtol=0)


def test_a_checkpoint_that_one_rank_cannot_write_fails_on_all_of_them(out: Path, two_ranks: list[dict[str, Any]]) -> None:
    for made in two_ranks:
        first, second = made["failures"]
        assert first == ""
        assert "2 checkpoints in a row could not be written" in second
    assert [path.name for path in (out / "full").rglob("*") if path.is_file()] == ["checkpoints.owner"]
