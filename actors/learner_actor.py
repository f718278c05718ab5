"""The learner as Ray actors, one an FSDP rank: batches from the queue, steps, weights to the generators, checkpoints into the store.

Owns the flow: rank 0 asks the queue and tells the others by the process group, so that all ranks train the same batch or stop together. Version k is
published, and a checkpoint of it written, while step k + 1 already waits for its batch. Called by the controller, which starts all ranks anew when
one of them is lost: they continue from the newest checkpoint that is whole.
"""

import logging
import os
import queue as handoff
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import msgspec
import ray
from torch import Tensor
from torch.distributed import TCPStore

from actors import cluster
from actors.evaluation import is_evaluated
from actors.learner_metrics import measure_broadcast, measure_checkpoint, measure_membership, measure_step
from actors.learner_news import Published, StepResult
from actors.queue.client import PATIENCE_S, BlockingQueueClient
from actors.run.rollout_files import compress
from actors.run.store_actor import StoreAddress, open_store
from actors.version_writer import VersionWriter
from learner import process_group, rank_channel
from learner.broadcaster import Broadcaster, Membership
from learner.checkpoint import Checkpoints
from learner.checkpoint_report import Damaged, Saved, SaveFailed
from learner.learner import Learner
from learner.weight_group import Backend
from learner.weights import BroadcastReport, WeightSender
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import ActorError, BroadcastError, Closed
from rlvr.metrics import Registry
from rlvr.records import Batch, Version
from rlvr.store import Store

logger = logging.getLogger(__name__)

BATCH_WAIT_S = 1.0
"""One long poll of the queue; between two of them a stop is noticed, and the other ranks hear that they still wait."""

HANDED = b"handed"
"""Rank 0 tells the others: the version is on its way."""


class RankAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one rank lives."""

    host: str
    store_port: int
    """Of the ranks' store, which rank 0 serves; 0 elsewhere."""
    metrics_host: str
    metrics_port: int
    pid: int
    node_id: str


News = StepResult | Published | Saved | SaveFailed | Damaged | Membership


class LearnerActor:
    """One rank. The controller calls `run` once; the other methods answer while it runs."""

    def __init__(self, config: Config, rank: int, device: str, backend: Backend) -> None:
        self._config = config
        self._rank = rank
        self._device = device
        self._backend: Backend = backend
        self._stop = threading.Event()
        self._news: handoff.Queue[News] = handoff.Queue()
        self._metrics = Registry(role="learner", replica=f"learner-{rank}", shows=rank == 0)
        self._metrics.gauge("rlvr_checkpoint_every_steps").set(config.run.checkpoint_every_steps)
        self._store: Store | None = None
        self._learner: Learner | None = None
        self._checkpoints: Checkpoints | None = None
        self._sender: WeightSender | None = None
        self._versions: VersionWriter | None = None
        self._broadcaster: Broadcaster | None = None
        self._hand_over = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hand-over")
        self._rank_store: TCPStore | None = None
        self._queue_answered_at = 0.0

    def address(self) -> RankAddress:
        """This rank's host and process, the port of the ranks' store, and where its metrics are."""
        host = cluster.node_address()
        self._rank_store = process_group.open_store(host) if self._rank == 0 else None
        metrics = self._config.metrics
        return RankAddress(
            host=host,
            store_port=self._rank_store.port if self._rank_store else 0,
            metrics_host=cluster.metrics_host(metrics.bind),
            metrics_port=self._metrics.serve(metrics.bind, metrics.actor_port),
            pid=os.getpid(),
            node_id=ray.get_runtime_context().get_node_id(),
        )

    def load(self, master_host: str, master_port: int, store: StoreAddress, store_actor: ray.actor.ActorHandle | None) -> Version:
        """Join the ranks and load the newest checkpoint that is whole, else the policy as it was given; collective. Returns its version.

        Its lineage is the one in which it was made; the queue counts the next. Checkpoints that were passed over are news.
        """
        world_size = self._config.learner.ranks
        process_group.join(self._rank, world_size, master_host, master_port, self._device, store=self._rank_store)
        self._learner = Learner(self._config, rank=self._rank, world_size=world_size, device=self._device)
        self._store = open_store(store, store_actor)
        self._checkpoints = Checkpoints(self._learner, self._store, report=self._tell_of_checkpoint)
        for damaged in self._checkpoints.load().damaged:
            self._metrics.counter("rlvr_checkpoint_failures_total").inc()
            self._news.put(damaged)
        self._metrics.gauge("rlvr_learner_step").set(self._learner.version.step)
        self._metrics.gauge("rlvr_checkpoint_step").set(self._learner.version.step)
        return self._learner.version

    def open_broadcast(self) -> tuple[str, int]:
        """Rank 0: host the store of the weight broadcast. Returns its address."""
        assert self._store is not None, "the ranks have not loaded"
        self._sender = WeightSender(cluster.node_address(), backend=self._backend, deadline_s=self._config.weights.deadline_s)
        seconds = self._metrics.histogram("rlvr_version_log_seconds")
        self._versions = VersionWriter(self._store, every_steps=self._config.weights.log_every_steps, observe=seconds.observe)
        self._broadcaster = Broadcaster(self._sender, announce=self._announce, changed=self._tell_of_members, log=self._versions.log)
        return self._sender.address

    def set_members(self, receivers: list[str]) -> None:
        """Rank 0: these receivers are to have the weights from now on; whoever of them lives is taken in at once."""
        assert self._broadcaster is not None
        self._broadcaster.set_members(receivers)

    def run(self, queue: ray.actor.ActorHandle, start: Version, evaluate_start: bool) -> str:
        """Publish what was loaded as version `start`, then train, publish and checkpoint step by step. Collective.

        evaluate_start: `start` is kept until it was evaluated. Returns `finished` or `interrupted`, when the last state is durable and published.
        """
        assert self._learner is not None
        client = BlockingQueueClient(queue, patience_s=BATCH_WAIT_S) if self._rank == 0 else None
        self._learner.begin_lineage(start)
        self._publish(keep=evaluate_start)
        self._train_until_stopped(client)
        self._save_last()
        if self._broadcaster is not None:
            self._unless_stopping(self._broadcaster.finish)
        return "finished" if self._learner.version.step == self._config.run.num_steps else "interrupted"

    def next_news(self, wait_s: float) -> list[News]:
        """What happened since the last call, oldest first; waits up to `wait_s` for the first."""
        news: list[News] = []
        try:
            news.append(self._news.get(timeout=wait_s))
            while True:
                news.append(self._news.get_nowait())
        except handoff.Empty:
            return news

    def alive(self) -> None:
        """Answers; a rank that hangs does not."""

    def stop(self) -> None:
        """Stop all ranks before the next step, with a checkpoint (asked of rank 0).

        Half of the grace period is for generators that are slow to take a version; then the checkpoint no longer waits for them.
        """
        self._stop.set()
        if self._broadcaster is not None:
            patience = threading.Timer(self._config.run.grace_s / 2, self._broadcaster.close)
            patience.daemon = True
            patience.start()

    def leave(self) -> None:
        """Leave the groups."""
        for part in (self._broadcaster, self._sender, self._versions, self._checkpoints):
            if part is not None:
                part.close()
        self._hand_over.shutdown(wait=False)
        process_group.leave()

    def _train_until_stopped(self, client: BlockingQueueClient | None) -> None:
        """The step loop of one rank."""
        assert self._learner is not None
        assert self._checkpoints is not None
        self._queue_answered_at = time.monotonic()
        for step in range(self._learner.version.step + 1, self._config.run.num_steps + 1):
            started = time.monotonic()
            batch = self._next_batch(client, step)
            waited_s = time.monotonic() - started
            if batch is None:
                return
            report = self._learner.train_step(batch)
            tensors = self._publish(keep=is_evaluated(step, self._config.run))
            if self._rank == 0:
                measure_step(self._metrics, report, waited_s=waited_s)
                self._news.put(StepResult(report=report, lineage=self._learner.version.lineage, wait_s=waited_s, rollouts=compress(batch)))
            if self._is_checkpoint(step):
                self._checkpoints.begin(tensors)

    def _next_batch(self, client: BlockingQueueClient | None, step: int) -> Batch | None:
        """Step `step`'s batch, the same on every rank; None when the run stops. Waits for the queue."""
        started = time.monotonic()
        while True:
            told = rank_channel.tell(self._ask(client, step) if client is not None else None)
            self._metrics.gauge("rlvr_learner_waiting_seconds").set(time.monotonic() - started if told is None else 0.0)
            if isinstance(told, rank_channel.Stop):
                return None
            if told is not None:
                return wire.unpack(told, Batch)

    def _ask(self, client: BlockingQueueClient, step: int) -> bytes | rank_channel.Stop | None:
        """A queue that is being restarted is asked again and again, so that a stop is noticed and the other ranks hear that they still wait."""
        assert self._learner is not None
        if self._stop.is_set():
            return rank_channel.Stop()
        try:
            frame = client.next_batch_frame(step, lineage=self._learner.version.lineage, wait_s=BATCH_WAIT_S)
        except Closed:
            return rank_channel.Stop()
        except ActorError:
            if time.monotonic() - self._queue_answered_at > PATIENCE_S:
                raise
            self._stop.wait(BATCH_WAIT_S)
            return None
        self._queue_answered_at = time.monotonic()
        return frame

    def _publish(self, *, keep: bool) -> dict[str, Tensor] | None:
        """Start to send what the learner holds, once the version before it has arrived. Returns its published weights; collective.

        That can take as long as an evaluation: the other ranks hear meanwhile that they still wait, or their collective would give up.
        """
        assert self._learner is not None
        version, tensors = self._learner.version, self._learner.export()
        handed: Future[None] | None = None
        if (broadcaster := self._broadcaster) is not None:
            assert tensors is not None
            handed = self._hand_over.submit(self._unless_stopping, partial(broadcaster.publish, version, tensors, keep=keep))
        while rank_channel.tell(HANDED if handed is None or wait([handed], timeout=BATCH_WAIT_S).done else None) is None:
            pass
        if handed is not None:
            handed.result()
        return tensors

    def _unless_stopping(self, waiting: Callable[[], None]) -> None:
        """Wait for generators, unless the run stops: its checkpoint is worth more than a version that the resumed run publishes first of all."""
        try:
            waiting()
        except BroadcastError as error:
            if not self._stop.is_set():
                raise
            logger.warning("the run stops without its last version at every generator: %s", error)

    def _save_last(self) -> None:
        """What the learner holds is durable at return; collective."""
        assert self._learner is not None
        assert self._checkpoints is not None
        self._checkpoints.finish()
        while self._learner.version.step > (self._checkpoints.newest or Version()).step:
            self._checkpoints.begin(self._learner.export())
            self._checkpoints.finish()  # raises at the second failure

    def _is_checkpoint(self, step: int) -> bool:
        run = self._config.run
        return step == run.num_steps or (run.checkpoint_every_steps > 0 and step % run.checkpoint_every_steps == 0)

    def _announce(self, broadcast: BroadcastReport) -> None:
        measure_broadcast(self._metrics, broadcast)
        if not broadcast.is_repeat:
            self._news.put(
                Published(
                    version=broadcast.version,
                    bytes_sent=broadcast.bytes_sent,
                    seconds=broadcast.seconds,
                    digest=broadcast.digest,
                    receivers=broadcast.receivers,
                )
            )

    def _tell_of_members(self, membership: Membership) -> None:
        measure_membership(self._metrics, membership)
        self._news.put(membership)

    def _tell_of_checkpoint(self, news: Saved | SaveFailed) -> None:
        measure_checkpoint(self._metrics, news)
        self._news.put(news)
