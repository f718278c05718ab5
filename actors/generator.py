"""A generator: leases sampling work, keeps its engine full, hands finished rollouts in, and takes new weights under running requests.

Owns the flow between one engine and the rollout queue; the Ray actor around it is `actors.generator_actor`. Called by nobody: it pulls. Knows no
Ray and no learner. It stops leasing only while it evaluates; it never waits for the learner unless the queue's slots say so.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Never, Protocol

import msgspec

from actors.engine import Completion, Engine, SampleRequest, Sampling
from actors.evaluation import EvaluationPrompt, EvaluationRun, EvaluationSample
from actors.queue.records import PutResult
from rlvr.errors import Closed, EngineError, OvertakenError
from rlvr.metrics import Registry
from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, Lease, Rollout, Version
from rlvr.seeds import derive_seed

logger = logging.getLogger(__name__)

HAND_IN_S = 0.02
"""Finished rollouts wait at most this long for others to share their frame."""
LEASE_WAIT_S = 1.0
"""One long poll of the queue."""
BEAT_S = 5.0
"""A generator whose completions take minutes still says that it is alive."""


class Queue(Protocol):
    """What a generator asks of the rollout queue; every call may raise Closed."""

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float) -> Sequence[Lease]: ...
    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> Sequence[PutResult]: ...
    async def applied(self, version: Version, *, generator: str) -> None: ...
    async def hand_back(self, lease_id: str, *, generator: str) -> None: ...
    async def beat(self, worker: str, *, role: str) -> None: ...


class Decoder(Protocol):
    """Token ids to the text that a verifier reads."""

    def decode(self, token_ids: Sequence[int]) -> str: ...


class GeneratorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one generator needs to know of a run."""

    name: str
    capacity: int
    """Completions in flight at most."""
    lease_size: int
    """Completions of one lease at most."""
    sampling: Sampling
    evaluation: tuple[EvaluationPrompt, ...] = ()
    """Empty where another generator evaluates."""
    evaluation_sampling: Sampling | None = None
    deterministic: bool = False
    seed: int = 0


class Generator:
    """One engine at work. `run` returns when the queue is closed; any other end is an error."""

    def __init__(self, settings: GeneratorSettings, *, engine: Engine, queue: Queue, decoder: Decoder, metrics: Registry) -> None:
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self._decoder = decoder
        self._metrics = metrics
        self._finished: asyncio.Queue[Rollout] = asyncio.Queue()
        self._evaluations: asyncio.Queue[EvaluationRun] = asyncio.Queue()
        self._in_flight = 0
        self._room = asyncio.Event()
        self._may_lease = asyncio.Event()
        self._applied: Version | None = None
        self.pause_seconds_max = 0.0

    async def run(self) -> None:
        """Sample until the queue closes; weights change under running requests."""
        try:
            async with asyncio.TaskGroup() as loops:  # a crash in any loop cancels the others and is raised here
                endless = [
                    loops.create_task(self._apply_published_weights(), name="weights"),
                    loops.create_task(self._hand_in_finished_rollouts(), name="hand-in"),
                    loops.create_task(self._beat(), name="beat"),
                ]
                await self._sample_leases_until_closed(loops)
                for task in endless:
                    task.cancel()
        except* Closed:
            logger.info("the queue closed; generator=%s stops", self._settings.name)

    async def next_evaluation(self) -> EvaluationRun:
        """The next finished evaluation, oldest first; waits for it."""
        return await self._evaluations.get()

    async def _sample_leases_until_closed(self, loops: asyncio.TaskGroup) -> None:
        """Takes leases, gives them to samplers; waits for room, for weights, and for the queue."""
        samplers: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._may_lease.wait()
                size = self._room_for_a_lease()
                if not size:
                    self._room.clear()
                    await self._room.wait()
                    continue
                assert self._applied is not None, "nothing is leased before the first published weights are applied"
                asked, is_idle = time.monotonic(), self._in_flight == 0
                leases = await self._queue.lease(size, generator=self._settings.name, applied=self._applied, wait_s=LEASE_WAIT_S)
                if is_idle:
                    self._metrics.counter("rlvr_generator_idle_seconds_total").inc(time.monotonic() - asked)
                if leases and not self._may_lease.is_set() and await self._leave_to_others(leases):
                    continue
                self._in_flight += sum(len(lease.rollout_ids) for lease in leases)
                for sampler in self._samplers(leases, loops):
                    samplers.add(sampler)
                    sampler.add_done_callback(samplers.discard)
        except Closed:
            for sampler in samplers:  # their rollouts would be refused: the run is over
                sampler.cancel()

    async def _leave_to_others(self, leases: Sequence[Lease]) -> bool:
        """Leases that came while an evaluation began: others may sample them meanwhile. True where they were handed back.

        In deterministic mode there are no others, and a lease handed back would come again under other ids: there it waits for the evaluation's end.
        """
        if self._settings.deterministic:
            await self._may_lease.wait()
            return False
        for lease in leases:
            await self._queue.hand_back(lease.id, generator=self._settings.name)
        return True

    def _room_for_a_lease(self) -> int:
        """How many completions the next lease may have: 0 until a worthwhile part of the engine is free."""
        free = self._settings.capacity - self._in_flight
        worthwhile = max(1, min(self._settings.lease_size, self._settings.capacity // 8))
        if self._settings.deterministic:
            return self._settings.capacity if self._in_flight == 0 else 0
        return min(free, self._settings.lease_size) if free >= worthwhile else 0

    def _samplers(self, leases: Sequence[Lease], loops: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        if self._settings.deterministic:
            return [loops.create_task(self._sample_together(leases))] if leases else []
        return [loops.create_task(self._sample(lease, rollout_id), name=rollout_id) for lease in leases for rollout_id in lease.rollout_ids]

    async def _sample(self, lease: Lease, rollout_id: str) -> None:
        completion = await self._engine.sample(SampleRequest(rollout_id=rollout_id, prompt_ids=lease.prompt_ids, sampling=self._settings.sampling))
        self._finish(lease, completion)

    async def _sample_together(self, leases: Sequence[Lease]) -> None:
        """A whole step at once, enqueued in id order: the same batch in every run."""
        places = [(lease, rollout_id, seed) for lease in leases for rollout_id, seed in zip(lease.rollout_ids, lease.seeds or (), strict=True)]
        completions = await self._engine.sample_together(
            [
                SampleRequest(rollout_id=rollout_id, prompt_ids=lease.prompt_ids, sampling=self._settings.sampling, seed=seed)
                for lease, rollout_id, seed in places
            ]
        )
        for (lease, _, _), completion in zip(places, completions, strict=True):
            self._finish(lease, completion)

    def _finish(self, lease: Lease, completion: Completion) -> None:
        self._in_flight -= 1
        self._room.set()
        rollout = Rollout(
            id=completion.rollout_id,
            problem_id=lease.problem_id,
            group_id=lease.group_id,
            lease_id=lease.id,
            token_data=completion.token_ids.astype(TOKEN_DTYPE).tobytes(),
            logprob_data=completion.logprobs.astype(LOGPROB_DTYPE).tobytes(),
            spans=completion.spans,
            finish_reason=completion.finish_reason,
            seconds=completion.seconds,
            text=self._decoder.decode(completion.token_ids.tolist()),
            generator=self._settings.name,
        )
        self._finished.put_nowait(rollout)
        self._count(rollout)

    def _count(self, rollout: Rollout) -> None:
        self._metrics.counter("rlvr_rollouts_generated_total", finish_reason=rollout.finish_reason.value).inc()
        self._metrics.counter("rlvr_tokens_generated_total").inc(rollout.num_tokens)
        self._metrics.histogram("rlvr_rollout_seconds").observe(rollout.seconds)
        self._metrics.histogram("rlvr_completion_tokens").observe(rollout.num_tokens)
        self._metrics.gauge("rlvr_requests_in_flight").set(self._in_flight)

    async def _hand_in_finished_rollouts(self) -> Never:
        """Takes finished rollouts, gives them to the queue in small batches; waits for the first of each batch."""
        while True:
            batch = [await self._finished.get()]
            await asyncio.sleep(HAND_IN_S)
            while not self._finished.empty():
                batch.append(self._finished.get_nowait())
            refused = [result for result in await self._queue.put(batch, generator=self._settings.name) if not result.is_accepted]
            if refused:
                logger.warning(
                    "the queue refused %d of %d rollouts (%s); queue.lease_s may be too short", len(refused), len(batch), refused[0].refused
                )

    async def _beat(self) -> Never:
        """Gives a sign of life; waits for the clock."""
        while True:
            await self._queue.beat(self._settings.name, role="generator")
            await asyncio.sleep(BEAT_S)

    async def _apply_published_weights(self) -> Never:
        """Takes staged versions, applies them between two engine steps, evaluates those that are marked; waits for the next version."""
        while True:
            staged = await self._engine.next_staged(self._applied)
            is_evaluated = staged.keep and bool(self._settings.evaluation)
            if is_evaluated:
                self._may_lease.clear()  # before anything of the new version is known: no lease may slip in between
            try:
                pause_s = await self._engine.apply(staged.version)
            except OvertakenError:
                logger.info("version=%s was overtaken by a newer one", staged.version)
                continue
            self.pause_seconds_max = max(self.pause_seconds_max, pause_s)
            self._applied = staged.version
            self._metrics.histogram("rlvr_weight_pause_seconds").observe(pause_s)
            self._metrics.counter("rlvr_weights_applied_total").inc()
            self._metrics.gauge("rlvr_policy_version").set(staged.version.step)
            await self._queue.applied(staged.version, generator=self._settings.name)
            if is_evaluated:
                await self._evaluate(staged.version)
            self._may_lease.set()

    async def _evaluate(self, version: Version) -> None:
        """Sample the evaluation prompts under exactly this version: no lease is taken and no weights are applied meanwhile."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._evaluate_one(index, prompt, sample, version))
                for index, prompt in enumerate(self._settings.evaluation)
                for sample in range(prompt.samples)
            ]
        samples = tuple(task.result() for task in tasks)
        self._evaluations.put_nowait(EvaluationRun(version=version, samples=samples, seconds=time.monotonic() - started))

    async def _evaluate_one(self, index: int, prompt: EvaluationPrompt, sample: int, version: Version) -> EvaluationSample:
        assert self._settings.evaluation_sampling is not None
        name = f"evaluation/{version}/{index}/{sample}"
        sampling = msgspec.structs.replace(self._settings.evaluation_sampling, temperature=prompt.temperature)
        seed = derive_seed(self._settings.seed, name) if prompt.temperature > 0 else None
        completion = await self._engine.sample(SampleRequest(rollout_id=name, prompt_ids=prompt.prompt_ids, sampling=sampling, seed=seed))
        if any(span.version != version for span in completion.spans):
            raise EngineError(f"{name} was sampled under {completion.spans}, an evaluation is of one version")
        return EvaluationSample(
            prompt=index,
            text=self._decoder.decode(completion.token_ids.tolist()),
            is_truncated=completion.is_truncated,
            num_tokens=len(completion.token_ids),
        )
