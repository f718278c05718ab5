"""The actors of one run: started together, watched, stopped together.

Owns the handles and the order of the start: queue, then verifiers, generators and learner ranks side by side, then the broadcast that joins the
last two. Called by the controller; decides nothing about training.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster import Cluster, metrics_host, options, spawn
from actors.engine import Sampling
from actors.engine_settings import BroadcastAddress, EngineSettings
from actors.generator import GeneratorSettings
from actors.generator_actor import GeneratorActor, GeneratorAddress
from actors.learner_actor import LearnerActor, RankAddress
from actors.prepare import Plan
from actors.queue.actor import QueueActor
from actors.queue.client import QueueClient
from actors.queue.service import QueueSetup
from actors.service import Target, host_port
from actors.verifier_actor import VerifierActor
from learner.weight_group import Backend
from learner.weight_protocol import receiver_names
from rlvr import wire
from rlvr.config import Config
from rlvr.config_rules import engines_known
from rlvr.errors import ActorError, UserError
from rlvr.seeds import derive_seed

logger = logging.getLogger(__name__)

LEARNER_CALLS = 4
"""A rank trains in one call and answers in others."""
QUEUE_CALLS = 4096
"""Waiting calls beside working ones."""
STILL_WAITING_S = 120.0
START_S = 1800.0
"""An image pull and a new node of an autoscaler fit in."""
STOP_S = 20.0
"""Actors get this long to end their own processes before they are killed."""


class Fleet:
    """Every actor of one run."""

    def __init__(self, config: Config, plan: Plan, cluster: Cluster, *, checkpoints: str) -> None:
        self._config = config
        self._plan = plan
        self._cluster = cluster
        self._checkpoints = checkpoints
        self.queue: Any = None
        self.generators: list[Any] = []
        self.verifiers: list[Any] = []
        self.learners: list[Any] = []
        self.targets: list[Target] = []

    @property
    def client(self) -> QueueClient:
        return QueueClient(self.queue)

    async def start(self) -> None:
        """Start every actor; raises ActorError with the name of the first that does not come up."""
        await self._start_queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_verifiers())
            group.create_task(self._start_generators())
            group.create_task(self._start_learners())
        await self._join_broadcast()

    def run(self) -> dict[str, Awaitable[Any]]:
        """Set everything going. By name: what each actor's `run` will return when the queue is closed or training has ended."""
        running: dict[str, Awaitable[Any]] = {"queue": self.queue.run.remote()}
        for index, verifier in enumerate(self.verifiers):
            running[f"verifier-{index}"] = verifier.run.remote(self.queue)
        for index, generator in enumerate(self.generators):
            running[f"generator-{index}"] = generator.run.remote()
        for rank, learner in enumerate(self.learners):
            running[f"learner-{rank}"] = learner.run.remote(self.queue, self._checkpoints)
        return running

    async def stop(self) -> None:
        """End every actor; those that do not end in time are killed."""
        ending = [actor.stop.remote() for actor in (*self.generators, *self.verifiers)] + [learner.leave.remote() for learner in self.learners]
        if ending:
            try:
                await asyncio.to_thread(ray.wait, ending, num_returns=len(ending), timeout=STOP_S)
            except ray.exceptions.RayError as error:
                logger.warning("an actor did not stop by itself and is killed: %s", error)
        for actor in (*self.generators, *self.verifiers, *self.learners, self.queue):
            if actor is not None:
                ray.kill(actor)

    async def _start_verifiers(self) -> None:
        settings = self._config.verifiers
        names = [f"verifier-{index}" for index in range(settings.count)]
        self.verifiers = [
            spawn(VerifierActor, name, self._config, **options(name=name, cluster=self._cluster, labels=settings.labels, cpus=settings.workers))
            for name in names
        ]
        for name, address in zip(names, await started(names, [verifier.start.remote() for verifier in self.verifiers]), strict=True):
            self.targets.append(Target(address=host_port(address.host, address.metrics_port), role="verifier", replica=name))

    async def _start_generators(self) -> None:
        settings = self._config.generators
        device = self._cluster.device(settings.device)
        gpus = settings.tensor_parallel if device == "cuda" else 0
        names = [f"generator-{index}" for index in range(engines_known(self._config))]
        self.generators = [
            spawn(
                GeneratorActor,
                self._config,
                self._generator_settings(index, name),
                self._engine_settings(name, device),
                self.queue,
                **options(name=name, cluster=self._cluster, labels=settings.labels, cpus=1, gpus=gpus),
            )
            for index, name in enumerate(names)
        ]
        addresses: Sequence[GeneratorAddress] = await started(names, [generator.start.remote() for generator in self.generators])
        for name, address in zip(names, addresses, strict=True):
            self.targets.append(Target(address=host_port(address.host, address.metrics_port), role="generator", replica=name))

    async def _start_learners(self) -> None:
        settings = self._config.learner
        device = self._cluster.device(settings.device)
        names = [f"learner-{rank}" for rank in range(settings.ranks)]
        env = {"OMP_NUM_THREADS": str(settings.threads)} if device == "cpu" else {}
        self.learners = [
            spawn(
                LearnerActor,
                self._config,
                rank,
                device,
                self._backend(),
                **options(
                    name=name, cluster=self._cluster, labels=settings.labels, cpus=1, gpus=int(device == "cuda"), threads=LEARNER_CALLS, env=env
                ),
            )
            for rank, name in enumerate(names)
        ]
        addresses: Sequence[RankAddress] = await started(names, [learner.address.remote() for learner in self.learners])
        for name, address in zip(names, addresses, strict=True):
            self.targets.append(Target(address=host_port(address.metrics_host, address.metrics_port), role="learner", replica=name))
        master = addresses[0]
        await started(names, [learner.load.remote(master.host, master.store_port) for learner in self.learners])

    async def _join_broadcast(self) -> None:
        """One process group of learner rank 0 and every worker of every engine."""
        names = [f"generator-{index}" for index in range(len(self.generators))]
        (host, port), *_ = await started(["learner-0"], [self.learners[0].open_broadcast.remote()])
        joins = [
            generator.join_broadcast.remote(
                BroadcastAddress(host=host, port=port, generator=name, backend=self._backend(), deadline_s=self._config.weights.deadline_s)
            )
            for name, generator in zip(names, self.generators, strict=True)
        ]
        await started(names, joins)
        receivers = [receiver for name in names for receiver in receiver_names(name, tensor_parallel=self._config.generators.tensor_parallel)]
        await started(["learner-0"], [self.learners[0].form_broadcast.remote(receivers)])

    def _backend(self) -> Backend:
        """As configured; else NCCL where both ends are on GPUs."""
        if self._config.weights.backend != "auto":
            return self._config.weights.backend
        devices = (self._cluster.device(self._config.generators.device), self._cluster.device(self._config.learner.device))
        return "nccl" if devices == ("cuda", "cuda") else "gloo"

    async def _start_queue(self) -> None:
        """The queue lives on the controller's node, which no autoscaler takes away."""
        setup = QueueSetup(config=self._config, problems=self._plan.problems, prompt_ids=self._plan.prompts)
        actor: Any = QueueActor  # Ray types the options of functions alone
        chosen = options(name="queue", cluster=self._cluster, labels={}, cpus=0, threads=QUEUE_CALLS)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.queue = actor.options(**chosen, scheduling_strategy=here).remote(wire.pack(setup))
        [port] = await started(["queue"], [self.queue.serve_metrics.remote()])
        self.targets.append(Target(address=host_port(metrics_host(self._config.metrics.bind), port), role="queue", replica="queue"))

    def _generator_settings(self, index: int, name: str) -> GeneratorSettings:
        config, plan = self._config, self._plan
        sampling = Sampling(
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
            max_tokens=config.rollout.max_completion_tokens,
            stop_token_ids=plan.stop_token_ids,
        )
        share = -(-plan.rollouts_per_step // engines_known(config))
        evaluates = index == 0
        return GeneratorSettings(
            name=name,
            capacity=plan.rollouts_per_step if config.run.deterministic else config.generators.max_num_seqs,
            lease_size=min(config.generators.max_num_seqs, share),
            sampling=sampling,
            evaluation=plan.evaluation if evaluates else (),
            evaluation_sampling=msgspec.structs.replace(
                sampling, temperature=0.0, top_p=1.0, top_k=-1, max_tokens=plan.evaluation_max_tokens, stop_token_ids=plan.evaluation_stop_token_ids
            ),
            deterministic=config.run.deterministic,
            seed=config.run.seed,
        )

    def _engine_settings(self, name: str, device: str) -> EngineSettings:
        config = self._config
        return EngineSettings(
            model=config.model.policy,
            revision=config.model.revision,
            dtype=config.model.compute_dtype,
            device=device,
            tensor_parallel=config.generators.tensor_parallel,
            max_num_seqs=config.generators.max_num_seqs,
            max_model_len=self._plan.max_model_len,
            kv_cache_gib=config.generators.kv_cache_gib,
            gpu_memory_fraction=config.generators.gpu_memory_fraction,
            threads=config.generators.threads,
            enforce_eager=config.generators.enforce_eager,
            trust_remote_code=config.model.trust_remote_code,
            seed=derive_seed(config.run.seed, "engine", name, 0, bits=31),
        )


async def started(names: Sequence[str], calls: Sequence[Any]) -> list[Any]:
    """Wait for calls to several actors, saying for whom. Raises ActorError for the first that fails, by name, or for those that never come."""
    tasks = [asyncio.ensure_future(outcome(name, call)) for name, call in zip(names, calls, strict=True)]
    began = time.monotonic()
    try:
        while True:
            done, pending = await asyncio.wait(tasks, timeout=STILL_WAITING_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if not pending:
                return [task.result() for task in tasks]
            late = ", ".join(name for name, task in zip(names, tasks, strict=True) if task in pending)
            if time.monotonic() - began > START_S:
                raise ActorError(f"{late} did not start within {START_S:.0f} s; has the cluster the CPUs, GPUs and labels that the run asks for?")
            logger.warning("still waiting for %s; `ray status` shows what the cluster has", late)
    finally:
        for task in tasks:
            task.cancel()


def first_error(error: BaseException) -> BaseException:
    """The first plain error of a group of errors; another error is its own first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def outcome(name: str, call: Any) -> Any:
    """Wait for one call to an actor. Raises ActorError with the actor's name and the cause in one line."""
    try:
        return await call
    except ray.exceptions.RayError as error:
        cause = first_error(getattr(error, "cause", None) or error)
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from error
        first = next((line for line in str(cause).strip().splitlines() if line.strip()), type(cause).__name__)
        raise ActorError(f"{name} failed: {type(cause).__name__}: {first}") from error
