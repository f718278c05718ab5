"""One FSDP rank: trains on batches and exports what it publishes.

Owns the policy, its optimizer and the reference model. Called by the learner actor of each rank, after `learner.process_group.join`; calls nobody.
Every method is collective: all ranks call it with the same arguments, or all of them wait.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from learner.batches import MicroBatch, StepData, flatten, micro_batch, mini_batches, plan_micro_batches
from learner.checkpoint_state import published
from learner.losses import Share, token_weights
from learner.model_folder import load, locate
from learner.objective import TokenFacts, objective
from learner.policy import DTYPES, Policy, build
from learner.report import StepReport
from learner.reporting import empty_report, step_report
from learner.step_stats import StepStats
from rlvr.config import Config
from rlvr.errors import LearnerError
from rlvr.learning_rate import learning_rate
from rlvr.records import Batch, Version

logger = logging.getLogger(__name__)


class Learner:
    """One rank of the learner. The default process group must have been joined.

    device: "cpu" or "cuda". reference: folder or hub id of the KL term's reference in place of model.reference.
    Raises UserError for a model that does not exist or cannot be trained.
    """

    def __init__(self, config: Config, *, rank: int, world_size: int, device: str, reference: str | None = None) -> None:
        assert dist.is_initialized()
        assert (dist.get_rank(), dist.get_world_size()) == (rank, world_size)
        self.config = config
        self.rank = rank
        self.world_size = world_size
        self.version = Version()
        """The weights that this learner holds."""
        self.device = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
        self._prepare_numerics()
        self._mesh = init_device_mesh(device, (world_size,))
        self.folder = locate(config.model.policy, revision=config.model.revision)
        self.policy = self._build(self.folder, config.model.param_dtype, config.model.compute_dtype, trains=True)
        self.reference = self._build_reference(reference or config.model.reference) if config.objective.kl_coef else None
        self._weights = list(self.policy.weights().values())
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self._weights, lr=optimizer.learning_rate, betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay
        )

    def _prepare_numerics(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(self.config.learner.threads)
        if self.config.run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
            torch.use_deterministic_algorithms(True)

    def _build(self, folder: Path, param_dtype: str, compute_dtype: str, *, trains: bool) -> Policy:
        objective = self.config.objective
        return build(
            load(folder, dtype=DTYPES[param_dtype], trust_remote_code=self.config.model.trust_remote_code),
            mesh=self._mesh,
            compute_dtype=compute_dtype,
            chunk_tokens=self.config.learner.logprob_chunk_tokens,
            temperature=self.config.rollout.temperature if objective.temperature_in_logprobs else 1.0,
            activation_checkpointing=self.config.model.activation_checkpointing,
            trains=trains,
        )

    def _build_reference(self, reference: str) -> Policy:
        folder = self.folder if reference == "initial" else locate(reference)
        dtype = self.config.model.reference_dtype
        return self._build(folder, dtype, dtype, trains=False)

    def train_step(self, batch: Batch) -> StepReport:
        """Train on a batch, which makes version (batch.lineage, batch.step). An empty batch makes it without an optimizer update.

        Raises LearnerError for a batch out of turn or of another lineage, and for a loss or gradient that is not finite; the weights are then not to
        be published.
        """
        if (batch.lineage, batch.step) != (self.version.lineage, self.version.step + 1):
            raise LearnerError(f"the learner holds version {self.version} and cannot train step {batch.step} of lineage {batch.lineage}")
        clock = _Clock(self.device)
        rate = learning_rate(self.config.optimizer, batch.step, self.config.run.num_steps)
        if not batch.rollouts:
            logger.warning("no rollout is left in the batch of step=%d: its version has the weights of the one before", batch.step)
            self.version = Version(lineage=batch.lineage, step=batch.step)
            return empty_report(batch, learning_rate=rate, seconds=clock.seconds())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with clock.phase("prepare"):
            data = flatten(batch, self.config.advantage)
        stats, norms = self._train(data, batch.step, clock)
        self.version = Version(lineage=batch.lineage, step=batch.step)
        return step_report(batch, data, self.config.objective, figures=stats.reduced(), norms=norms, learning_rate=rate, seconds=clock.seconds())

    def _train(self, data: StepData, step: int, clock: "_Clock") -> tuple[StepStats, list[float]]:
        """All optimizer updates of a step. Returns this rank's figures and the gradient norm of each update."""
        updates = mini_batches(
            data.num_rows,
            updates=self.config.optimizer.updates_per_step,
            epochs=self.config.optimizer.epochs_per_batch,
            seed=self.config.run.seed,
            step=step,
        )
        stats, norms = StepStats(self.device), []
        with clock.phase("score"):
            reference_K = None if self.reference is None else self._score(self.reference, data)
            old_K = self._old_logprobs(data, num_updates=len(updates))
        for number, rows in enumerate(updates):
            with clock.phase("train"):
                loss = self._accumulate(data, rows, old_K, reference_K, stats, measures_gap=number == 0)
            with clock.phase("optimize"):
                norms.append(self._update(step, loss))
        return stats, norms

    def _old_logprobs(self, data: StepData, *, num_updates: int) -> NDArray[np.float32] | None:
        """What the ratio is taken to, by token of the step; None where it is the training pass itself (one update on recomputed logprobs)."""
        if self.config.objective.old_logprobs == "sampler":
            return data.sampler_K
        return None if num_updates == 1 else self._score(self.policy, data)

    @torch.no_grad()
    def _score(self, policy: Policy, data: StepData) -> NDArray[np.float32]:
        """Logprobs of all completion tokens of the step, on every rank; each rank computes its share."""
        scores_K = torch.zeros(data.tokens_K.size, dtype=torch.float32)
        for part in self._plan(data, np.arange(data.num_rows)):
            micro = micro_batch(data, part, self.device)
            logprobs_M, _ = policy(micro.input_ids_BL, micro.positions_M, micro.targets_M)
            if part:
                scores_K[micro.flat_M] = logprobs_M.cpu()
        policy.free_gathered()
        dist.all_reduce(scores_K)
        return scores_K.numpy()

    def _plan(self, data: StepData, rows: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        max_tokens = self.config.optimizer.max_tokens_per_micro_batch
        return plan_micro_batches(rows, data.input_lengths, world_size=self.world_size, max_tokens=max_tokens)[self.rank]

    def _accumulate(
        self,
        data: StepData,
        rows: NDArray[np.int64],
        old_K: NDArray[np.float32] | None,
        reference_K: NDArray[np.float32] | None,
        stats: StepStats,
        *,
        measures_gap: bool,
    ) -> Tensor:
        """Forward and backward over the rows of one update. Returns this rank's share of the loss."""
        before = stats.loss_sum().clone()
        for part in self._plan(data, rows):
            micro = micro_batch(data, part, self.device)
            entropy_trains = self.config.objective.entropy_coef != 0.0
            logprobs_M, entropies_M = self.policy(micro.input_ids_BL, micro.positions_M, micro.targets_M, entropy_trains=entropy_trains)
            if not part:
                (logprobs_M.sum() * 0.0).backward()  # keeps step with ranks that have one micro-batch more
                continue
            facts = self._facts(data, rows, micro, old_K, reference_K)
            terms = objective(self.config.objective, logprobs_M, entropies_M, facts)
            (terms.loss * self.world_size).backward()  # FSDP averages over ranks, the loss is a sum
            stats.add_terms(terms, entropies_M, facts)
            if measures_gap:
                stats.add_gap(logprobs_M, facts.sampler_M)
        return stats.loss_sum() - before

    def _facts(
        self,
        data: StepData,
        rows: NDArray[np.int64],
        micro: MicroBatch,
        old_K: NDArray[np.float32] | None,
        reference_K: NDArray[np.float32] | None,
    ) -> TokenFacts:
        share = Share(row_tokens=micro.row_tokens, update_rows=rows.size, update_tokens=int(data.lengths[rows].sum()))
        advantages = torch.from_numpy(data.advantages_N[list(micro.rows)]).repeat_interleave(torch.tensor(micro.row_tokens))

        def taken(values_K: NDArray[np.float32]) -> Tensor:
            return torch.from_numpy(values_K[micro.flat_M.numpy()]).to(self.device)

        return TokenFacts(
            weights_M=token_weights(share, aggregation=self.config.objective.aggregation).float().to(self.device),
            advantages_M=advantages.float().to(self.device),
            sampler_M=taken(data.sampler_K),
            old_M=None if old_K is None else taken(old_K),
            reference_M=None if reference_K is None else taken(reference_K),
        )

    def _update(self, step: int, loss: Tensor) -> float:
        """Clip the gradient to its global norm and make one AdamW update. Returns the norm before clipping."""
        total = loss.cpu()
        dist.all_reduce(total)
        norm = get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not (math.isfinite(total.item()) and math.isfinite(norm.item())):
            raise LearnerError(f"step {step}: loss {total.item()} and gradient norm {norm.item()} are not both finite; nothing was updated")
        clip_grads_with_norm_(self._weights, self.config.optimizer.max_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def export(self) -> dict[str, Tensor] | None:
        """The published weights: bf16-rounded CPU tensors by checkpoint name, tied ones once, on rank 0; None on the others."""
        return published(self.policy, keep=self.rank == 0)

    def begin_lineage(self, start: Version) -> None:
        """The weights that this learner holds are version `start` from now on. Raises LearnerError where they are those of another step."""
        if start.step != self.version.step:
            raise LearnerError(f"the learner holds version {self.version} and cannot start from {start}")
        self.version = start


class _Clock:
    """Seconds by phase; on cuda the queued work is waited for at each phase's end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._start}
