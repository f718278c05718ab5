"""One vLLM engine: token ids in, completions out, and weights that change under running requests.

Owns the engine's version: requests are submitted, and weights swapped, one after the other under one lock, so that a request salted with a version
never starts on the next. Called by the generator and by evaluation, from one event loop. Knows no Ray, no queue, no tokenizer.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from actors.engine.device import check_can_run_on, check_same
from actors.engine.process import close_context, start_vllm
from actors.engine.pulse import Pulse
from actors.engine.samples import Completion, SampleRequest, Sampling, completion_of, nothing_of, num_sampled, sampling_params
from actors.engine.settings import BroadcastAddress, EngineSettings, prepare_environment
from learner.weight_protocol import NOT_STAGED, REFUSED, StagedVersion, receiver_names
from learner.weight_watch import StagedWatch
from rlvr.errors import BroadcastError, EngineError, OvertakenError
from rlvr.records import FinishReason, Version

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestOutputCollector

__all__ = ["BroadcastAddress", "Completion", "Engine", "EngineSettings", "SampleRequest", "Sampling", "StagedVersion"]

logger = logging.getLogger(__name__)

START = Version()
SHUTDOWN_S = 1.0
"""Then the engine's process is killed: all that it held is released at once, and what lasts is the end of its interpreter.
Workers in processes of their own get vLLM's longer time."""
ABORTED = "abort"
"""vLLM's word for a request that was taken back."""
VLLM_PROCESS_LOGGER = "vllm.v1.utils"
WARM_UP = SampleRequest(rollout_id="warm-up", prompt_ids=(0,), sampling=Sampling(max_tokens=1), seed=0)
"""The first request of an engine takes seconds; nobody should wait for them later."""


class Engine:
    """A running engine. Build it with `start`; end it with `shutdown`. An engine that raised EngineError stays failed: start another."""

    def __init__(self, llm: "AsyncLLM", settings: EngineSettings, version: Version) -> None:
        self._llm = llm
        self._settings = settings
        self._version = version
        self._batch_number = 0
        self._turn = asyncio.Lock()  # held by whoever submits or changes weights
        self._running: dict[str, RequestOutputCollector] = {}
        self._restarted: set[str] = set()
        self._is_interrupted = False
        self._watch: StagedWatch | None = None
        self._pulse = Pulse()
        self._failure = ""
        self._is_down = False

    @classmethod
    async def start(cls, settings: EngineSettings, *, version: Version = START) -> Self:
        """Start vLLM on the model folder, whose weights are called `version`. Takes some 10 to 60 s.

        Raises EngineError, also where vLLM would run on another device than the settings say.
        """
        prepare_environment(settings)
        started = time.monotonic()
        try:
            await asyncio.to_thread(check_can_run_on, settings.device)
            built: list[AsyncLLM] = []
            await asyncio.to_thread(start_vllm, settings, built)
            llm = built.pop()
            await llm.update_weight_version(str(version))
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM did not start on {settings.model}: {error}") from error
        engine = cls(llm, settings, version)
        try:
            check_same(settings.device, llm.vllm_config.device_config.device_type)
            await engine.sample(WARM_UP)
        except EngineError:
            await engine.shutdown()
            raise
        logger.info("engine started: model=%s seconds=%.1f", settings.model, time.monotonic() - started)
        return engine

    @property
    def version(self) -> Version:
        """The weights that the next request starts on."""
        return self._version

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together, at most."""
        return int(self._llm.model_config.max_model_len)

    @property
    def num_running(self) -> int:
        """Requests that were submitted and are not finished."""
        return len(self._running)

    def check(self) -> None:
        """Raise EngineError when the engine has failed or its process is gone."""
        if self._failure:
            raise EngineError(f"the engine has failed: {self._failure}")
        if self._llm.errored:
            raise EngineError("the engine's process is gone")

    async def answers(self, within_s: float) -> None:
        """Return when the engine's process has answered. Raises EngineError where it is gone, or hangs: it says nothing for `within_s`, or for the
        deadline of a broadcast longer where it swaps or joins meanwhile."""
        self.check()
        if silent_s := await self._pulse.silence_s(lambda: self._guarded(self._llm.get_weight_version()), within_s=within_s):
            self._fail(EngineError(f"its process has not answered for {silent_s:.0f} s"))
            self.check()

    async def interrupt(self) -> None:
        """Stop sampling for good: every request, running or yet to come, returns at once with the tokens that it has, unfinished.

        A swap of weights or a deterministic batch that is under way ends first.
        """
        async with self._turn:
            self._is_interrupted = True
            await self._guarded(self._llm.abort(list(self._running), internal=True))

    async def sample(self, request: SampleRequest) -> Completion:
        """Sample one completion; cancelling this call aborts it. Raises EngineError when the engine dies, ValueError for a bad request."""
        started = time.monotonic()
        while True:
            async with self._turn:
                self.check()
                if self._is_interrupted:
                    return nothing_of(request)
                stream = await self._submit(request, salt=str(self._version))
            output = await self._finish(stream)
            if output is not None:
                return completion_of(request, output, time.monotonic() - started)

    async def sample_together(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        """Sample all of `requests` on one version as one batch: enqueued by rollout id while the engine stands, then let go; in the order given.

        The same requests, weights and engine seed give the same bits. Weights wait until all are done. Raises ValueError unless the engine is idle.
        """
        async with self._turn:
            if self._running:
                raise ValueError(f"a deterministic batch needs an idle engine, {len(self._running)} requests are running")
            if self._is_interrupted:
                return [nothing_of(request) for request in requests]
            self._batch_number += 1
            salt = f"{self._version}/{self._batch_number}"  # nothing is cached before a batch, so that each one computes the same
            started = time.monotonic()
            streams = await self._submit_together(sorted(requests, key=lambda request: request.rollout_id), salt=salt)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._finish(streams[request.rollout_id])) for request in requests]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from errors
            outputs = [(request, task.result()) for request, task in zip(requests, tasks, strict=True)]
            return [completion_of(request, output, time.monotonic() - started) for request, output in outputs if output is not None]

    async def _submit_together(self, requests: Sequence[SampleRequest], *, salt: str) -> "dict[str, RequestOutputCollector]":
        for request in requests:
            self._check_prompt(request.prompt_ids)
        await self._guarded(self._llm.pause_generation(mode="keep", clear_cache=False))
        try:
            return {request.rollout_id: await self._submit(request, salt=salt) for request in requests}
        finally:
            await self._guarded(self._llm.resume_generation())

    async def join_broadcast(self, address: BroadcastAddress) -> None:
        """Receive from this sender from now on; the next group that it forms may hold `receiver_names` of this generator."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        names = receiver_names(address.generator, tensor_parallel=self._settings.tensor_parallel)
        self._pulse.excuse_s = address.deadline_s
        with self._pulse.long_call():
            await self._guarded(self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=msgspec.to_builtins(address))))
        self._watch = await asyncio.to_thread(StagedWatch, (address.host, address.port), names, deadline_s=address.deadline_s)

    async def next_staged(self, after: Version | None, *, wait_s: float) -> StagedVersion | None:
        """A version after `after` (None: any) that is whole in every worker: the oldest one that somebody keeps, else the newest.

        None where there is none within `wait_s`. Every worker holds it from then on, until it is applied or this is called again. Raises
        BroadcastError while the sender is gone, until another one is joined, and EngineError when the engine is.
        """
        self.check()
        if self._watch is None:
            raise BroadcastError("this engine has joined no broadcast")
        return await asyncio.to_thread(self._watch.next, after, wait_s=wait_s)

    def pass_over(self, staged: StagedVersion) -> None:
        """Do without a version that `next_staged` returned: every worker may forget it."""
        if self._watch is not None:
            self._watch.discard(staged)

    async def apply(self, version: Version, *, file: Path | None = None) -> float:
        """Swap a version in under the running requests, a staged one or the one in `file`; return the seconds for which sampling stood.

        Raises OvertakenError when the version is not staged (what `next_staged` returned is) and BroadcastError when it does not fit: the old
        weights go on. Raises EngineError when the swap failed halfway.
        """
        async with self._turn:
            started = time.monotonic()
            await self._guarded(self._llm.pause_generation(mode="keep", clear_cache=False))
            await self._restart_unstarted()
            try:
                with self._pulse.long_call():
                    await self._swap(version, file={} if file is None else {"file": str(file)})
            except BroadcastError:
                await self._guarded(self._llm.resume_generation())
                raise
            self._version = version
            await self._guarded(self._llm.resume_generation())
            return time.monotonic() - started

    async def shutdown(self) -> None:
        """End the engine and its processes; requests in flight raise EngineError. A second call does nothing."""
        if self._is_down:
            return
        self._is_down = True
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # else it would report the end of the process as a failure
        self._fail(EngineError("it was shut down"))
        logging.getLogger(VLLM_PROCESS_LOGGER).setLevel(logging.ERROR)  # that it kills is what we ask of it
        await asyncio.to_thread(self._llm.shutdown, SHUTDOWN_S if self._settings.tensor_parallel == 1 else None)
        close_context(self._llm)
        del self._llm
        gc.collect()  # its finalizer fails, with noise, where it first runs while Python ends

    async def _swap(self, version: Version, *, file: dict[str, str]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._guarded(self._llm.start_weight_update())
        try:
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"version": str(version)} | file))
        except Exception as error:
            if REFUSED in str(error) and self._settings.tensor_parallel == 1:
                kind = OvertakenError if NOT_STAGED in str(error) else BroadcastError
                raise kind(str(error)) from error
            self._fail(error)
            raise EngineError(f"version {version} was not swapped in whole: {error}") from error
        await self._guarded(self._llm.finish_weight_update(str(version)))

    async def _restart_unstarted(self) -> None:
        """Take back requests without a token: their prompt was read, or would be found in the cache, under the old weights, and no span says so."""
        states = self._llm.output_processor.request_states
        unstarted = [name for name in self._running if name in states and not num_sampled(states[name])]
        self._restarted.update(unstarted)
        if unstarted:
            await self._guarded(self._llm.abort(unstarted, internal=True))

    async def _submit(self, request: SampleRequest, *, salt: str) -> "RequestOutputCollector":
        from vllm.inputs import tokens_input

        self.check()
        self._check_prompt(request.prompt_ids)
        prompt = tokens_input(list(request.prompt_ids), cache_salt=salt)
        stream = await self._guarded(self._llm.add_request(request.rollout_id, prompt, sampling_params(request)))
        self._running[stream.request_id] = stream
        return stream

    def _check_prompt(self, prompt_ids: Sequence[int]) -> None:
        """Without a tokenizer vLLM lets a token that its model lacks through, and dies of it."""
        room, vocabulary = self._llm.model_config.max_model_len, self._llm.model_config.get_vocab_size()
        if not 0 < len(prompt_ids) < room:
            raise ValueError(f"a prompt has 1 to {room - 1} tokens here, got {len(prompt_ids)}")
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocabulary:
            raise ValueError(f"prompt tokens are 0 to {vocabulary - 1} for this model, got {min(prompt_ids)} to {max(prompt_ids)}")

    async def _finish(self, stream: "RequestOutputCollector") -> "RequestOutput | None":
        """The request's whole output; None when it was taken back for new weights."""
        try:
            output = await self._guarded(stream.get())
        except asyncio.CancelledError:
            await self._llm.abort(stream.request_id, internal=True)
            raise
        finally:
            del self._running[stream.request_id]
            was_restarted = stream.request_id in self._restarted
            self._restarted.discard(stream.request_id)
        if was_restarted:
            return None
        reason = output.outputs[0].finish_reason
        if reason not in tuple(FinishReason) and not (self._is_interrupted and reason == ABORTED):
            raise EngineError(f"request {output.request_id} ended with {reason}")
        return output

    def _fail(self, error: Exception) -> None:
        """From now on every call raises, and so do those that wait."""
        self._failure = self._failure or str(error) or type(error).__name__
        self._llm.output_processor.propagate_error(EngineError(f"the engine has failed: {self._failure}"))

    async def _guarded(self, call: Any) -> Any:
        """Await a call of vLLM; its death becomes an EngineError here and nowhere else."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            return await call
        except (EngineDeadError, EngineGenerateError) as error:
            self._fail(error)
            raise EngineError("the engine's process is gone") from error
