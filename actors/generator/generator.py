"""A generator: leases sampling work, keeps its engine full, hands finished rollouts in, and leaves without losing a token.

Owns the flow between one engine and the rollout queue; weights and evaluations are `actors.generator.weights`, the Ray actor around it all is
`actors.generator.actor`. Called by nobody: it pulls. Knows no Ray and no learner. It stops leasing only while it evaluates; it never waits for the
learner unless the queue's slots say so.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, Never

from actors.engine.engine import Completion, Engine, SampleRequest
from actors.evaluation import EvaluationRun
from actors.generator import continuation
from actors.generator.lease_gate import LeaseGate
from actors.generator.pace import Pace
from actors.generator.settings import Decoder, GeneratorSettings, Queue, VersionLog
from actors.generator.weights import WeightFollower
from rlvr.errors import Closed
from rlvr.metrics import Registry
from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, FinishReason, Lease, Partial, Rollout, Version

__all__ = ["Decoder", "Generator", "GeneratorSettings", "Queue", "VersionLog"]

logger = logging.getLogger(__name__)

HAND_IN_S = 0.02
"""Finished rollouts wait at most this long for others to share their frame."""
LEASE_WAIT_S = 1.0
"""One long poll of the queue."""
BEAT_S = 5.0
"""A generator whose completions take minutes still says that it is alive."""
PACE_LOOK_S = 0.1
"""A generator that waits for its pace looks this often, for what has finished shorter than was charged, and for its leave."""


class Generator:
    """One engine at work. `run` returns when the queue is closed or the generator has left; any other end is an error."""

    def __init__(self, settings: GeneratorSettings, *, engine: Engine, queue: Queue, decoder: Decoder, log: VersionLog, metrics: Registry) -> None:
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self._decoder = decoder
        self._metrics = metrics
        self._gate = LeaseGate(metrics)
        self._weights = WeightFollower(settings, engine=engine, queue=queue, decoder=decoder, log=log, gate=self._gate, metrics=metrics)
        self._pace = Pace(settings.max_tokens_per_second, first_guess=settings.sampling.max_tokens, clock=time.monotonic)
        self._finished: asyncio.Queue[Rollout] = asyncio.Queue()
        self._holding: Counter[str] = Counter()  # completions that are leased and not handed in yet, by lease
        self._unfinished: defaultdict[str, list[Partial]] = defaultdict(list)  # by lease

    @property
    def pause_seconds_max(self) -> float:
        """The longest for which sampling stood for new weights."""
        return self._weights.pause_seconds_max

    async def start_from_log(self, version: Version) -> bool:
        """Begin with a version of the version log, before `run`; False where it is not there any more."""
        return await self._weights.start_from_log(version)

    def evaluate_from_now(self, pending: Sequence[Version]) -> None:
        """This generator evaluates from now on, and first the pending versions, which it reads from the version log."""
        self._weights.evaluate_from_now(list(pending))

    async def next_evaluation(self) -> EvaluationRun:
        """The next finished evaluation, oldest first; waits for it. One without samples is of a version that was nowhere to be read any more."""
        return await self._weights.evaluations.get()

    async def run(self) -> Literal["closed", "left"]:
        """Sample until the queue closes or the generator is to leave; weights change under running requests."""
        outcome: Literal["closed", "left"] = "closed"
        try:
            async with asyncio.TaskGroup() as loops:  # a crash in any loop cancels the others and is raised here
                endless = [
                    loops.create_task(self._weights.follow(), name="weights"),
                    loops.create_task(self._hand_in_finished_rollouts(), name="hand-in"),
                    loops.create_task(self._beat(), name="beat"),
                ]
                if await self._sample_leases_until_the_end(loops) == "left":
                    await self._hand_over()
                    outcome = "left"
                for task in endless:
                    task.cancel()
        except* Closed:
            outcome = "closed"
        logger.info("generator=%s stops: %s", self._settings.name, outcome)
        return outcome

    async def leave(self) -> None:
        """Stop leasing, hand in what is finished, hand back what is not; then `run` returns. A deterministic step is finished first."""
        self._gate.leave()
        await self._engine.interrupt()

    async def _sample_leases_until_the_end(self, loops: asyncio.TaskGroup) -> Literal["closed", "left"]:
        """Takes leases, gives them to samplers; waits for room, for weights, for its pace and for the queue."""
        samplers: set[asyncio.Task[None]] = set()
        try:
            while not self._gate.is_leaving:
                size = self._room_for_a_lease()
                if not size:
                    await self._gate.changed()
                    continue
                if wait_s := self._pace.wait_s():
                    await asyncio.sleep(min(wait_s, PACE_LOOK_S))
                    continue
                leases = await self._lease(size)
                if not self._gate.is_open and await self._leave_to_others(leases):
                    continue
                for sampler in self._samplers(leases, loops):
                    samplers.add(sampler)
                    sampler.add_done_callback(samplers.discard)
        except Closed:
            for sampler in samplers:  # their rollouts would be refused: the run is over
                sampler.cancel()
            return "closed"
        if samplers:
            await asyncio.wait(samplers)
        return "left"

    async def _lease(self, size: int) -> Sequence[Lease]:
        held = self._weights.held
        assert held is not None, "nothing is leased before the first weights are applied"
        asked, is_idle = time.monotonic(), self._gate.in_flight == 0
        leases = await self._queue.lease(size, generator=self._settings.name, applied=held, wait_s=LEASE_WAIT_S, holding=[*self._holding])
        if is_idle:
            self._metrics.counter("rlvr_generator_idle_seconds_total").inc(time.monotonic() - asked)
        return leases

    async def _leave_to_others(self, leases: Sequence[Lease]) -> bool:
        """Leases that came while the gate shut: others may sample them meanwhile. True where they were handed back.

        In deterministic mode there are no others, and a lease handed back would come again under other ids: there it waits for the evaluation's end.
        """
        if self._settings.deterministic and not self._gate.is_leaving:
            await self._gate.opened()
            if self._gate.is_open:
                return False
        for lease in leases:
            await self._queue.hand_back(lease.id, lease.partials, generator=self._settings.name)
        return True

    def _room_for_a_lease(self) -> int:
        """How many completions the next lease may have: 0 while the gate is shut, and until a worthwhile part of the engine is free."""
        if not self._gate.is_open:
            return 0
        settings, in_flight = self._settings, self._gate.in_flight
        if settings.deterministic:
            return settings.capacity if in_flight == 0 else 0
        free = settings.capacity - in_flight
        worthwhile = max(1, min(settings.lease_size, settings.capacity // 8))
        if free < worthwhile:
            return 0
        return min(free, settings.lease_size, self._pace.affordable(settings.lease_size))

    def _samplers(self, leases: Sequence[Lease], loops: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start to sample what was leased."""
        count = sum(len(lease.rollout_ids) for lease in leases)
        self._gate.begin(count)
        self._holding.update({lease.id: len(lease.rollout_ids) for lease in leases})
        charged = self._pace.charge(count)
        if self._settings.deterministic:
            return [loops.create_task(self._sample_together(leases, charged=charged))] if leases else []
        return [
            loops.create_task(self._sample(lease, rollout_id, charged=charged), name=rollout_id)
            for lease in leases
            for rollout_id in lease.rollout_ids
        ]

    async def _sample(self, lease: Lease, rollout_id: str, *, charged: float) -> None:
        request = SampleRequest(rollout_id=rollout_id, prompt_ids=lease.prompt_ids, sampling=self._settings.sampling)
        begun = next((partial for partial in lease.partials if partial.rollout_id == rollout_id), None)
        if begun is None:
            completion = await self._engine.sample(request)
            self._end(lease, completion, num_new=len(completion.token_ids), handovers=0, charged=charged)
            return
        completion = await self._continue(request, begun)
        self._end(lease, completion, num_new=len(completion.token_ids) - begun.num_tokens, handovers=begun.handovers, charged=charged)

    async def _continue(self, request: SampleRequest, begun: Partial) -> Completion:
        """Sample what another generator's part of a completion lacks, which may be nothing."""
        self._metrics.counter("rlvr_completions_continued_total").inc()
        end = continuation.end_of(
            begun, num_prompt_tokens=len(request.prompt_ids), sampling=request.sampling, max_model_len=self._engine.max_model_len
        )
        if end is not None:
            return continuation.beginning(begun, finish_reason=end)
        return continuation.joined(begun, await self._engine.sample(continuation.continuing(request, begun)))

    async def _sample_together(self, leases: Sequence[Lease], *, charged: float) -> None:
        """A whole step at once, enqueued in id order: the same batch in every run. None of it is ever handed back with tokens."""
        places = [(lease, rollout_id, seed) for lease in leases for rollout_id, seed in zip(lease.rollout_ids, lease.seeds or (), strict=True)]
        completions = await self._engine.sample_together(
            [
                SampleRequest(rollout_id=rollout_id, prompt_ids=lease.prompt_ids, sampling=self._settings.sampling, seed=seed)
                for lease, rollout_id, seed in places
            ]
        )
        for (lease, _, _), completion in zip(places, completions, strict=True):
            self._end(lease, completion, num_new=len(completion.token_ids), handovers=0, charged=charged)

    def _end(self, lease: Lease, completion: Completion, *, num_new: int, handovers: int, charged: float) -> None:
        """A completion has ended here, finished or not. num_new: the tokens that this engine sampled of it."""
        self._pace.settle(num_new, charged=charged)
        self._metrics.counter("rlvr_tokens_generated_total").inc(num_new)
        if completion.finish_reason is None:
            begun = continuation.partial_of(completion, handovers=handovers + 1)
            self._unfinished[lease.id] += [begun] if begun is not None else []
        else:
            self._finish(lease, completion, completion.finish_reason, handovers=handovers)
        self._gate.end()

    def _finish(self, lease: Lease, completion: Completion, finish_reason: FinishReason, *, handovers: int) -> None:
        rollout = Rollout(
            id=completion.rollout_id,
            problem_id=lease.problem_id,
            group_id=lease.group_id,
            lease_id=lease.id,
            token_data=completion.token_ids.astype(TOKEN_DTYPE).tobytes(),
            logprob_data=completion.logprobs.astype(LOGPROB_DTYPE).tobytes(),
            spans=completion.spans,
            finish_reason=finish_reason,
            seconds=completion.seconds,
            text=self._decoder.decode(completion.token_ids.tolist()),
            generator=self._settings.name,
            handovers=handovers,
        )
        self._finished.put_nowait(rollout)
        self._metrics.counter("rlvr_rollouts_generated_total", finish_reason=finish_reason.value).inc()
        self._metrics.histogram("rlvr_rollout_seconds").observe(rollout.seconds)
        self._metrics.histogram("rlvr_completion_tokens").observe(rollout.num_tokens)

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
            self._holding -= Counter(rollout.lease_id for rollout in batch)
            for _ in batch:
                self._finished.task_done()

    async def _hand_over(self) -> None:
        """Leave nothing behind: first what is finished, then each lease that has unfinished completions, with their tokens."""
        await self._finished.join()
        for lease_id, partials in self._unfinished.items():
            await self._queue.hand_back(lease_id, partials, generator=self._settings.name)

    async def _beat(self) -> Never:
        """Gives a sign of life while the engine's process answers; waits for that, and for the clock. Raises EngineError where it hangs."""
        while True:
            await self._engine.answers(self._settings.engine_silence_s)
            await self._queue.beat(self._settings.name, role="generator")
            await asyncio.sleep(BEAT_S)
