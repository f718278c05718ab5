"""What each actor of a run is made with: its settings, its place and its Ray options.

Owns the step from configuration and plan to a spawned actor. Called by the keepers of queue, workers and learner; keeps nothing, waits for nothing.
"""

from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster import Cluster, options, spawn
from actors.engine.engine import Sampling
from actors.engine.settings import EngineSettings
from actors.generator.actor import GeneratorActor
from actors.generator.generator import GeneratorSettings
from actors.learner_actor import LearnerActor
from actors.prepare import Plan
from actors.queue.actor import QueueActor
from actors.queue.service import QueueSetup
from actors.run.store_actor import StoreActor, StoreAddress
from actors.verifier_actor import VerifierActor
from learner.weight_group import Backend
from rlvr import wire
from rlvr.config import Config
from rlvr.config_rules import engines_known
from rlvr.seeds import derive_seed

LEARNER_CALLS = 8
"""A rank trains in one call and answers in others."""
SERVICE_CALLS = 4096
"""Waiting calls beside working ones."""
STORE_CALLS = 16
"""The store actor is not asynchronous: each of these is a thread, which waits for the disk."""


class Blueprints:
    """Makes the actors of one run."""

    def __init__(self, config: Config, plan: Plan, cluster: Cluster, *, store: StoreAddress, journal: str, resumes: int = 0) -> None:
        """resumes: how often the run was resumed: incarnations count from 0 again each time, engine seeds must not."""
        self._resumes = resumes
        self.config = config
        self.plan = plan
        self.cluster = cluster
        self.store = store
        self._journal = journal
        self.store_actor: Any = None

    def make_store(self) -> None:
        """Others reach a store that only this host sees through an actor here."""
        if self.store.kind == "folder" and not self.store.is_shared:
            self.store_actor = self._here("store", ray.remote(StoreActor), self.store.where, calls=STORE_CALLS, max_restarts=-1)

    def make_queue(self) -> Any:
        """The queue lives on the controller's node, which no autoscaler takes away; Ray restarts it there, so that its handle stays."""
        setup = QueueSetup(
            config=self.config,
            problems=self.plan.problems,
            prompt_ids=self.plan.prompts,
            journal=self._journal,
            silence_s=self.config.queue.silence_s,
        )
        return self._here("queue", QueueActor, wire.pack(setup), max_restarts=-1)

    def make_generator(self, replica: str, name: str, incarnation: int, *, queue: Any, node_id: str | None) -> Any:
        """One engine, on one node where `node_id` names it."""
        settings = self.config.generators
        device = self.device
        gpus = settings.tensor_parallel if device == "cuda" else 0
        chosen = options(name=name, cluster=self.cluster, labels=settings.labels, cpus=1, gpus=gpus)
        return spawn(
            GeneratorActor,
            self.config,
            self._generator_settings(replica, name),
            self._engine_settings(replica, incarnation, device),
            queue,
            self.store,
            self.store_actor,
            **_on_node(chosen, node_id),
        )

    def make_verifier(self, replica: str, name: str) -> Any:
        settings = self.config.verifiers
        return spawn(
            VerifierActor, name, replica, self.config, **options(name=name, cluster=self.cluster, labels=settings.labels, cpus=settings.workers)
        )

    def make_rank(self, rank: int, name: str) -> Any:
        settings = self.config.learner
        device = self.cluster.device(settings.device)
        env = {"OMP_NUM_THREADS": str(settings.threads)} if device == "cpu" else {}
        return spawn(
            LearnerActor,
            self.config,
            rank,
            device,
            self.backend,
            **options(name=name, cluster=self.cluster, labels=settings.labels, cpus=1, gpus=int(device == "cuda"), threads=LEARNER_CALLS, env=env),
        )

    @property
    def device(self) -> str:
        """Of the engines: cpu or cuda."""
        return self.cluster.device(self.config.generators.device)

    @property
    def backend(self) -> Backend:
        """Of the weight broadcast: as configured; else NCCL where both ends are on GPUs."""
        if self.config.weights.backend != "auto":
            return self.config.weights.backend
        devices = (self.device, self.cluster.device(self.config.learner.device))
        return "nccl" if devices == ("cuda", "cuda") else "gloo"

    @property
    def _again(self) -> tuple[str, ...]:
        return (f"resume {self._resumes}",) if self._resumes else ()

    def _here(self, name: str, actor: Any, argument: Any, *, calls: int = SERVICE_CALLS, **more: Any) -> Any:
        chosen = options(name=name, cluster=self.cluster, labels={}, cpus=0, threads=calls) | more
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return actor.options(**chosen, scheduling_strategy=here).remote(argument)

    def _generator_settings(self, replica: str, name: str) -> GeneratorSettings:
        config, plan = self.config, self.plan
        sampling = Sampling(
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
            max_tokens=config.rollout.max_completion_tokens,
            stop_token_ids=plan.stop_token_ids,
        )
        share = -(-plan.rollouts_per_step // engines_known(config))
        return GeneratorSettings(
            name=name,
            replica=replica,
            capacity=plan.rollouts_per_step if config.run.deterministic else config.generators.max_num_seqs,
            lease_size=min(config.generators.max_num_seqs, share),
            sampling=sampling,
            evaluation=plan.evaluation,
            evaluation_sampling=msgspec.structs.replace(
                sampling, temperature=0.0, top_p=1.0, top_k=-1, max_tokens=plan.evaluation_max_tokens, stop_token_ids=plan.evaluation_stop_token_ids
            ),
            deterministic=config.run.deterministic,
            seed=config.run.seed,
            max_tokens_per_second=config.generators.max_tokens_per_second,
            engine_silence_s=config.queue.silence_s,
        )

    def _engine_settings(self, replica: str, incarnation: int, device: str) -> EngineSettings:
        config = self.config
        return EngineSettings(
            model=config.model.policy,
            revision=config.model.revision,
            dtype=config.model.compute_dtype,
            device=device,
            tensor_parallel=config.generators.tensor_parallel,
            max_num_seqs=config.generators.max_num_seqs,
            max_model_len=self.plan.max_model_len,
            kv_cache_gib=config.generators.kv_cache_gib,
            gpu_memory_fraction=config.generators.gpu_memory_fraction,
            threads=config.generators.threads,
            enforce_eager=config.generators.enforce_eager,
            trust_remote_code=config.model.trust_remote_code,
            seed=derive_seed(config.run.seed, "engine", replica, incarnation, *self._again, bits=31),
        )


def _on_node(chosen: dict[str, Any], node_id: str | None) -> dict[str, Any]:
    """The same options, pinned to one node, which satisfies the labels already."""
    if node_id is None:
        return chosen
    pinned = {name: value for name, value in chosen.items() if name != "label_selector"}
    return pinned | {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
