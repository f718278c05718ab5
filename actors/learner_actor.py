"""The learner as Ray actors, one an FSDP rank: batches from the queue, steps, and weights to the generators.

Owns the flow: rank 0 asks the queue and tells the others by the process group, so that all ranks train the same batch or stop together; it publishes
version k from a thread of its own while step k + 1 already waits for its batch. Called by the controller.
"""

import logging
import queue as handoff
import threading
import time
from pathlib import Path

import msgspec
import ray
from torch.distributed import TCPStore

from actors import cluster
from actors.evaluation import is_evaluated
from actors.queue.client import BlockingQueueClient
from actors.rollout_files import compress
from learner import process_group, rank_channel
from learner.learner import Learner
from learner.publisher import Publisher
from learner.report import StepReport
from learner.weight_group import Backend
from learner.weights import BroadcastReport, WeightSender
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import Closed
from rlvr.metrics import Registry
from rlvr.records import Batch, Version

logger = logging.getLogger(__name__)

BATCH_WAIT_S = 1.0
"""One long poll of the queue; between two of them a stop is noticed, and the other ranks hear that they still wait."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller learns of one step."""

    report: StepReport
    wait_s: float
    """Seconds the learner waited for this step's batch."""
    rollouts: bytes
    """The step's kept rollouts, compressed (`actors.rollout_files`)."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One version that every generator has staged."""

    version: Version
    bytes_sent: int
    seconds: float
    digest: str


class RankAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one rank lives."""

    host: str
    store_port: int
    """Of the ranks' store, which rank 0 serves; 0 elsewhere."""
    metrics_host: str
    metrics_port: int


class LearnerActor:
    """One rank. The controller calls `run` once; the other methods answer while it runs."""

    def __init__(self, config: Config, rank: int, device: str, backend: Backend) -> None:
        self._config = config
        self._rank = rank
        self._device = device
        self._backend: Backend = backend
        self._stop = threading.Event()
        self._news: handoff.Queue[StepResult | Published] = handoff.Queue()
        self._metrics = Registry(role="learner", replica=f"learner-{rank}")
        self._learner: Learner | None = None
        self._sender: WeightSender | None = None
        self._store: TCPStore | None = None

    def address(self) -> RankAddress:
        """This rank's host, the port of the ranks' store, and where its metrics are."""
        host = cluster.node_address()
        self._store = process_group.open_store(host) if self._rank == 0 else None
        bind = self._config.metrics.bind
        return RankAddress(
            host=host,
            store_port=self._store.port if self._store else 0,
            metrics_host=cluster.metrics_host(bind),
            metrics_port=self._metrics.serve(bind),
        )

    def load(self, master_host: str, master_port: int) -> None:
        """Join the ranks and load the policy; collective."""
        world_size = self._config.learner.ranks
        process_group.join(self._rank, world_size, master_host, master_port, self._device, store=self._store)
        self._learner = Learner(self._config, rank=self._rank, world_size=world_size, device=self._device)

    def open_broadcast(self) -> tuple[str, int]:
        """Rank 0: host the store of the weight broadcast. Returns its address."""
        self._sender = WeightSender(cluster.node_address(), backend=self._backend, deadline_s=self._config.weights.deadline_s)
        return self._sender.address

    def form_broadcast(self, receivers: list[str]) -> None:
        """Rank 0: one group of this rank and these receivers; returns when all have joined."""
        assert self._sender is not None
        self._sender.form(receivers)

    def run(self, queue: ray.actor.ActorHandle, checkpoints: str) -> str:
        """Publish version 0, then train, publish and checkpoint step by step. Returns `finished` or `interrupted`; collective."""
        client = BlockingQueueClient(queue) if self._rank == 0 else None
        publisher = Publisher(self._sender, announce=self._announce) if self._sender is not None else None
        try:
            last = self._train_until_stopped(client, publisher, Path(checkpoints))
            if publisher is not None:
                publisher.finish()
        finally:
            if publisher is not None:
                publisher.close()
        return "finished" if last == self._config.run.num_steps else "interrupted"

    def next_news(self, wait_s: float) -> list[StepResult | Published]:
        """What happened since the last call, oldest first; waits up to `wait_s` for the first."""
        news: list[StepResult | Published] = []
        try:
            news.append(self._news.get(timeout=wait_s))
            while True:
                news.append(self._news.get_nowait())
        except handoff.Empty:
            return news

    def stop(self) -> None:
        """Stop all ranks before the next step, with a checkpoint (asked of rank 0)."""
        self._stop.set()

    def leave(self) -> None:
        """Leave the groups."""
        if self._sender is not None:
            self._sender.close()
        process_group.leave()

    def _train_until_stopped(self, client: BlockingQueueClient | None, publisher: Publisher | None, checkpoints: Path) -> int:
        """The step loop of one rank. Returns the last step that was trained."""
        assert self._learner is not None
        run = self._config.run
        self._publish(publisher, 0)
        for step in range(1, run.num_steps + 1):
            started = time.monotonic()
            batch = self._next_batch(client, step)
            waited = time.monotonic() - started
            if batch is None:
                if step > 1 and not self._is_checkpoint(step - 1):
                    self._save(checkpoints, step - 1)
                return step - 1
            report = self._learner.train_step(batch)
            self._publish(publisher, step)
            if self._rank == 0:
                self._report(report, batch, waited)
            if self._is_checkpoint(step):
                self._save(checkpoints, step)
        return run.num_steps

    def _next_batch(self, client: BlockingQueueClient | None, step: int) -> Batch | None:
        """Step `step`'s batch, the same on every rank; None when the run stops. Waits for the queue."""
        while True:
            told = rank_channel.tell(self._ask(client, step) if client is not None else None)
            if isinstance(told, rank_channel.Stop):
                return None
            if told is not None:
                return wire.unpack(told, Batch)

    def _ask(self, client: BlockingQueueClient, step: int) -> bytes | rank_channel.Stop | None:
        if self._stop.is_set():
            return rank_channel.Stop()
        try:
            return client.next_batch_frame(step, wait_s=BATCH_WAIT_S)
        except Closed:
            return rank_channel.Stop()

    def _publish(self, publisher: Publisher | None, step: int) -> None:
        assert self._learner is not None
        tensors = self._learner.export()
        if publisher is not None:
            assert tensors is not None
            publisher.publish(Version(step=step), tensors, keep=is_evaluated(step, self._config.run))

    def _announce(self, broadcast: BroadcastReport) -> None:
        self._metrics.histogram("rlvr_weight_broadcast_seconds").observe(broadcast.seconds)
        self._metrics.counter("rlvr_weight_bytes_sent_total").inc(broadcast.bytes_sent)
        self._metrics.gauge("rlvr_published_version").set(broadcast.version.step)
        self._news.put(Published(version=broadcast.version, bytes_sent=broadcast.bytes_sent, seconds=broadcast.seconds, digest=broadcast.digest))

    def _report(self, report: StepReport, batch: Batch, waited: float) -> None:
        self._measure(report, waited)
        self._news.put(StepResult(report=report, wait_s=waited, rollouts=compress(batch)))

    def _measure(self, report: StepReport, waited: float) -> None:
        metrics = self._metrics
        metrics.counter("rlvr_learner_wait_seconds_total").inc(waited)
        metrics.counter("rlvr_tokens_trained_total").inc(report.tokens)
        metrics.histogram("rlvr_train_seconds").observe(report.seconds.total)
        metrics.gauge("rlvr_learner_step").set(report.step)
        metrics.gauge("rlvr_learning_rate").set(report.learning_rate)
        if report.skipped:
            return  # an empty batch says nothing about the policy
        metrics.gauge("rlvr_reward_mean").set(report.reward_mean)
        metrics.gauge("rlvr_uniform_groups_ratio").set(1.0 - report.informative_groups / report.groups)
        metrics.gauge("rlvr_truncated_ratio").set(report.truncated_share)
        metrics.gauge("rlvr_loss").set(report.loss)
        metrics.gauge("rlvr_entropy_nats").set(report.entropy)
        metrics.gauge("rlvr_kl_nats").set(report.kl or 0.0)
        metrics.gauge("rlvr_clipped_tokens_ratio").set(report.ratio.clip_fraction)
        metrics.gauge("rlvr_logprob_gap_nats").set(report.sampler_gap.mean_abs)
        metrics.gauge("rlvr_gradient_norm").set(report.grad_norm)

    def _save(self, checkpoints: Path, step: int) -> None:
        """Collective."""
        assert self._learner is not None
        with self._metrics.histogram("rlvr_checkpoint_seconds").time():
            self._learner.save_checkpoint(checkpoints, Version(step=step))

    def _is_checkpoint(self, step: int) -> bool:
        run = self._config.run
        return step == run.num_steps or (run.checkpoint_every_steps > 0 and step % run.checkpoint_every_steps == 0)
