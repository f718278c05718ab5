"""One rank on a GPU takes the steps of one rank on the CPU. Skipped, and counted, where there is no GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import batch, config, whole_weights

from learner import process_group
from learner.checkpoint import Checkpoints
from learner.learner import Learner
from rlvr.records import Version
from rlvr.store import FolderStore

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def on_cuda() -> Iterator[None]:
    process_group.join(0, 1, "127.0.0.1", 0, "cuda")
    yield
    process_group.leave()


EVERY_TERM = {"kl_coef": 0.1, "entropy_coef": 0.01}


@pytest.mark.parametrize("which", ["small", "small_tied"])
def test_a_gpu_takes_the_steps_of_a_cpu(which: str, request: pytest.FixtureRequest, on_cuda: None) -> None:
    run = config(request.getfixturevalue(which), objective=EVERY_TERM, optimizer={"learning_rate": 1e-5})
    weights = []
    for device in ("cpu", "cuda"):
        ours = Learner(run, rank=0, world_size=1, device=device)
        for step in (1, 2):
            ours.train_step(batch(step=step))
        weights.append({name: weight.cpu() for name, weight in whole_weights(ours).items()})
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=5e-6, rtol=0)


def test_bf16_on_a_gpu_stays_near_fp32(small: Path, on_cuda: None) -> None:
    losses = []
    for compute_dtype in ("float32", "bfloat16"):
        run = config(small, objective=EVERY_TERM, model={"compute_dtype": compute_dtype, "activation_checkpointing": True})
        losses.append(Learner(run, rank=0, world_size=1, device="cuda").train_step(batch()).loss)
    assert losses[1] == pytest.approx(losses[0], abs=2e-2)


def test_a_checkpoint_made_on_a_gpu_resumes_there(small: Path, on_cuda: None, tmp_path: Path) -> None:
    first, second = (Learner(config(small), rank=0, world_size=1, device="cuda") for _ in range(2))
    first.train_step(batch())
    at_checkpoint = whole_weights(first)
    checkpoints = Checkpoints(first, FolderStore(tmp_path))
    checkpoints.begin(first.export())
    first.train_step(batch(step=2))  # while it is written
    checkpoints.finish()
    assert Checkpoints(second, FolderStore(tmp_path)).load().version == Version(step=1)
    assert all(torch.equal(weight, at_checkpoint[name]) for name, weight in whole_weights(second).items())
    second.train_step(batch(step=2))
    assert all(torch.equal(weight, whole_weights(second)[name]) for name, weight in whole_weights(first).items())
    published = first.export()
    assert published is not None
    assert {tensor.device.type for tensor in published.values()} == {"cpu"}
