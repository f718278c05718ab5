"""What a process of the two-rank tests runs: the same few steps that the test runs on one rank."""

import sys
from pathlib import Path
from typing import Any

import torch
from checkpoint_stores import FullStore, HiddenStore
from tiny_models import batch, config, whole_weights
from torch import Tensor

from learner import process_group
from learner.checkpoint import Checkpoints
from learner.learner import Learner
from rlvr.config import Config
from rlvr.errors import LearnerError
from rlvr.store import FolderStore, Store

STEPS = 3

SCENARIOS: dict[str, dict[str, Any]] = {
    "uneven lengths": {"optimizer": {"max_tokens_per_micro_batch": 60}},
    "fewer rows than ranks' micro-batches": {"num": 3, "optimizer": {"max_tokens_per_micro_batch": 25}},
    "one row": {"num": 1},
    "two updates": {"optimizer": {"updates_per_step": 2, "max_tokens_per_micro_batch": 60}},
    "every term": {
        "objective": {"kl_coef": 0.1, "entropy_coef": 0.01, "old_logprobs": "recomputed", "importance_cap": 2.0},
        "optimizer": {"updates_per_step": 2, "epochs_per_batch": 2},
        "model": {"activation_checkpointing": True},
    },
    "sequence mean": {"objective": {"aggregation": "sequence_mean"}},
}

CASES = [*(("untied", name) for name in SCENARIOS), ("tied", "uneven lengths"), ("tied", "every term")]
"""(model, scenario)."""


HOSTS: dict[str, tuple[type[FolderStore], type[FolderStore]]] = {
    "one host": (FolderStore, FolderStore),
    "rank 1 elsewhere": (FolderStore, HiddenStore),
    "rank 0 elsewhere": (HiddenStore, FolderStore),
    "object store": (HiddenStore, HiddenStore),
}
"""How each rank sees the store of checkpoints."""


def run_config(folder: Path, scenario: dict[str, Any]) -> Config:
    tables = {name: table for name, table in scenario.items() if name != "num"}
    optimizer = {"learning_rate": 1e-5, **tables.pop("optimizer", {})}
    return config(folder, optimizer=optimizer, **tables)


def outcome(folder: Path, scenario: dict[str, Any], *, rank: int, world_size: int) -> dict[str, Any]:
    """Weights and reports after STEPS steps, and what is published."""
    ours = Learner(run_config(folder, scenario), rank=rank, world_size=world_size, device="cpu")
    reports = [ours.train_step(batch(step=step, num=scenario.get("num", 8))) for step in range(1, STEPS + 1)]
    facts: list[tuple[float, float, float, int]] = [(r.loss, r.grad_norm, r.sampler_gap.mean_abs, r.tokens) for r in reports]
    weights: dict[str, Tensor] = whole_weights(ours)
    return {"weights": weights, "facts": facts, "published": ours.export()}


def killed_and_resumed(folder: Path, store: Store, *, rank: int, world_size: int) -> dict[str, Any]:
    """Six steps with a checkpoint after the third, and the last three of them again by a learner that comes from the checkpoint."""

    def steps(ours: Learner, first: int, last: int) -> dict[str, Tensor]:
        for step in range(first, last + 1):
            ours.train_step(batch(step=step))
        return whole_weights(ours)

    whole = Learner(run_config(folder, SCENARIOS["two updates"]), rank=rank, world_size=world_size, device="cpu")
    checkpoints = Checkpoints(whole, store)
    saved = steps(whole, 1, 3)
    checkpoints.begin(whole.export())
    uninterrupted = steps(whole, 4, 6)
    checkpoints.finish()
    resumed = Learner(run_config(folder, SCENARIOS["two updates"]), rank=rank, world_size=world_size, device="cpu")
    restored = Checkpoints(resumed, store).load()
    return {"restored": str(restored.version), "saved": saved, "uninterrupted": uninterrupted, "resumed": steps(resumed, 4, 6)}


def failures(folder: Path, root: Path, *, rank: int, world_size: int) -> list[str]:
    """What each of two checkpoints says whose files rank 0 cannot give their name."""
    store = FullStore(root)
    store.is_full = rank == 0
    ours = Learner(run_config(folder, {}), rank=rank, world_size=world_size, device="cpu")
    checkpoints, said = Checkpoints(ours, store), []
    for _ in range(2):
        checkpoints.begin(ours.export())
        try:
            checkpoints.finish()
            said.append("")
        except LearnerError as error:
            said.append(str(error))
    return said


def main(rank: int, world_size: int, port: int, models: Path, out: Path) -> None:
    torch.set_num_threads(1)
    process_group.join(rank, world_size, "127.0.0.1", port, "cpu", timeout_s=300.0)
    made: dict[str, Any] = {}
    for model, name in CASES:
        made[f"{model}, {name}"] = outcome(models / model, SCENARIOS[name], rank=rank, world_size=world_size)
    for name, kinds in HOSTS.items():
        made[name] = killed_and_resumed(models / "tied", kinds[rank](out / name), rank=rank, world_size=world_size)
    made["failures"] = failures(models / "tied", out / "full", rank=rank, world_size=world_size)
    torch.save(made, out / f"rank{rank}.pt")
    process_group.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
