"""Laws of one real engine, untied embeddings, weights that arrive through a real broadcast. The last two tests end the engine."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_under_test import EOS, VOCABULARY, EngineUnderTest, running_engine
from prometheus_client import REGISTRY

from actors.engine.engine import Completion, SampleRequest
from actors.generator import continuation
from learner import version_log
from learner.weight_codec import digest
from rlvr.errors import BroadcastError, EngineError
from rlvr.records import FinishReason, Partial, Version, VersionSpan
from rlvr.store import FolderStore

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]

PARITY = 1e-4
LONG_PROMPT = tuple(2 + index % 50 for index in range(100))  # three whole blocks of the prefix cache


@pytest.fixture(scope="module")
def running() -> Iterator[EngineUnderTest]:
    with running_engine(tied=False) as engine:
        yield engine


def worst_distance(running: EngineUnderTest, requests: list[SampleRequest], completions: list[Completion]) -> float:
    return max(running.distance(request, completion) for request, completion in zip(requests, completions, strict=True))


def whole_span(version: Version, completion: Completion) -> tuple[VersionSpan, ...]:
    return (VersionSpan(version=version, start=0, end=len(completion.token_ids)),)


async def sample_and_apply_in_flight(running: EngineUnderTest, requests: list[SampleRequest], version: Version) -> tuple[list[Completion], float]:
    """Weights change once the first, shorter completion is done: by then the others have tokens too."""
    async with asyncio.TaskGroup() as group:
        short = group.create_task(running.engine.sample(running.request(requests[0].prompt_ids, max_tokens=5)))
        tasks = [group.create_task(running.engine.sample(request)) for request in requests]
        await short
        pause_s = await running.engine.apply(version)
    return [task.result() for task in tasks], pause_s


def test_logprobs_are_those_of_the_sampling_distribution_under_the_first_weights(running: EngineUnderTest) -> None:
    requests = [running.request((2 + index, 9, 4), temperature=0.7) for index in range(16)]
    completions = running.sample(requests)
    assert all(completion.spans == whole_span(Version(), completion) for completion in completions)
    assert worst_distance(running, requests, completions) <= PARITY


def test_after_an_update_in_flight_every_token_has_the_logprob_of_the_version_that_its_span_names(running: EngineUnderTest) -> None:
    before = running.engine.version
    version = running.publish()
    requests = [running.request((5, 6, 7, 2 + index), max_tokens=150, temperature=0.8) for index in range(32)]
    completions, pause_s = running.run(sample_and_apply_in_flight(running, requests, version))
    assert {tuple(span.version for span in completion.spans) for completion in completions} == {(before, version)}
    assert worst_distance(running, requests, completions) <= PARITY
    assert 0.02 < pause_s < 20.0
    afterwards = [running.request((5, 6, 7, 2 + index), temperature=0.8) for index in range(16)]
    completions = running.sample(afterwards)
    assert all(completion.spans == whole_span(version, completion) for completion in completions)
    assert worst_distance(running, afterwards, completions) <= PARITY


def test_requests_without_a_token_start_anew_on_the_new_weights(running: EngineUnderTest) -> None:
    version = running.publish()
    requests = [running.request(LONG_PROMPT, max_tokens=10) for _ in range(200)]  # three times what runs at once

    async def sample_and_apply_at_once() -> list[Completion]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(running.engine.sample(request)) for request in requests]
            await running.all_submitted(len(requests))
            await running.engine.apply(version)
        return [task.result() for task in tasks]

    completions = running.run(sample_and_apply_at_once())
    assert completions[-1].spans == whole_span(version, completions[-1])
    assert worst_distance(running, requests, completions) <= PARITY


def test_the_prefix_cache_serves_one_version_and_never_the_next(running: EngineUnderTest) -> None:
    running.sample([running.request(LONG_PROMPT)])
    before = cache_hits()
    running.sample([running.request(LONG_PROMPT)])
    assert cache_hits() - before >= 64
    running.run(running.engine.apply(running.publish()))
    before = cache_hits()
    request = running.request(LONG_PROMPT, temperature=1.0)
    (completion,) = running.sample([request])
    assert cache_hits() == before
    assert running.distance(request, completion) <= PARITY


def cache_hits() -> float:
    """Prompt tokens found in the cache, as vLLM itself counts them in the process's registry."""
    return sum(sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == "vllm:prefix_cache_hits_total")


def test_a_batch_sampled_together_is_the_same_bit_for_bit(running: EngineUnderTest) -> None:
    def batch() -> list[Completion]:
        requests = [
            SampleRequest(rollout_id=f"{index:03d}", prompt_ids=LONG_PROMPT, sampling=running.request((2,)).sampling, seed=index)
            for index in range(96)
        ]
        completions = running.run(running.engine.sample_together(requests[::-1]))
        assert [completion.rollout_id for completion in completions] == [request.rollout_id for request in requests[::-1]]
        return completions

    first, second = batch(), batch()
    assert [each.token_ids.tobytes() for each in first] == [each.token_ids.tobytes() for each in second]
    assert [each.logprobs.tobytes() for each in first] == [each.logprobs.tobytes() for each in second]
    assert len({each.token_ids.tobytes() for each in first}) == len(first)


def test_a_seed_belongs_to_its_request_and_the_engine_has_a_stream_of_its_own(running: EngineUnderTest) -> None:
    seeded = [running.sample([running.request((3, 4), seed=11)])[0].token_ids.tobytes() for _ in range(2)]
    assert seeded[0] == seeded[1]
    unseeded = running.sample([running.request((3, 4)) for _ in range(64)])
    assert len({each.token_ids.tobytes() for each in unseeded}) == 64


def test_a_stop_token_ends_a_completion_and_is_its_last_token(running: EngineUnderTest) -> None:
    every_third = tuple(range(0, VOCABULARY, 3))
    stopped = running.sample([running.request((3, 4, 5), max_tokens=200, stop_token_ids=every_third) for _ in range(8)])
    for completion in stopped:
        *body, last = completion.token_ids.tolist()
        assert completion.finish_reason is FinishReason.STOP
        assert last in every_third
        assert not set(body) & set(every_third)
        assert len(completion.logprobs) == len(completion.token_ids)


def test_nothing_but_the_given_stop_tokens_and_the_limits_ends_a_completion(running: EngineUnderTest) -> None:
    completions = running.sample([running.request((3, 4, 5), max_tokens=100) for _ in range(32)])
    assert any(EOS in completion.token_ids for completion in completions)
    assert {(len(each.token_ids), each.finish_reason, each.is_truncated) for each in completions} == {(100, FinishReason.LENGTH, True)}
    (at_the_end_of_the_context,) = running.sample([running.request(LONG_PROMPT * 2, max_tokens=500)])
    assert (len(at_the_end_of_the_context.token_ids), at_the_end_of_the_context.finish_reason) == (56, FinishReason.LENGTH)


def test_temperature_zero_takes_the_likeliest_token(running: EngineUnderTest) -> None:
    greedy, again = running.sample([running.request((8, 9), temperature=0.0) for _ in range(2)])
    assert greedy.token_ids.tolist() == again.token_ids.tolist()
    cold = running.request((8, 9), temperature=1.0)
    best = [running.reference(cold, greedy)]
    for position in range(0, 20, 5):
        for token in range(VOCABULARY):
            other = greedy.token_ids.copy()
            other[position] = token
            changed = Completion(
                rollout_id="", token_ids=other, logprobs=greedy.logprobs, spans=greedy.spans, finish_reason=greedy.finish_reason, seconds=0.0
            )
            assert running.reference(cold, changed)[position] <= best[0][position]


@pytest.mark.parametrize(
    ("prompt_ids", "message"),
    [
        ((), "a prompt has 1 to 255 tokens here, got 0"),
        ((2,) * 256, "got 256"),
        ((2, VOCABULARY), "prompt tokens are 0 to 63"),
        ((-1,), "got -1 to -1"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_engine_lives(running: EngineUnderTest, prompt_ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        running.sample([running.request(prompt_ids)])
    with pytest.raises(ValueError, match=message):
        running.run(running.engine.sample_together([running.request((2, 3)), running.request(prompt_ids)]))
    assert running.engine.num_running == 0
    assert len(running.sample([running.request((2, 3))])[0].token_ids) == 20


def test_a_cancelled_request_is_aborted(running: EngineUnderTest) -> None:
    async def cancel_one_of_two() -> Completion:
        async with asyncio.TaskGroup() as group:
            doomed = group.create_task(running.engine.sample(running.request((2, 3), max_tokens=240)))
            other = group.create_task(running.engine.sample(running.request((2, 3), max_tokens=5)))
            await asyncio.wait([other])
            doomed.cancel()
        assert doomed.cancelled()
        return other.result()

    assert len(running.run(cancel_one_of_two()).token_ids) == 5
    assert running.engine.num_running == 0


def test_weights_that_do_not_fit_are_refused_whole_and_the_old_ones_go_on(running: EngineUnderTest) -> None:
    serving = running.engine.version
    newest = max(running.weights)
    good = running.weights[newest]
    missing = {name: tensor for name, tensor in good.items() if name != "model.layers.1.self_attn.k_proj.weight"}
    unknown = {**good, "model.layers.7.mlp.up_proj.weight": good["lm_head.weight"]}
    for step, weights, message in (
        (1001, missing, r"unchanged: missing model\.layers\.1\.self_attn\.k_proj\.weight"),
        (1002, unknown, r"unchanged: unknown model\.layers\.7\.mlp\.up_proj\.weight"),
    ):
        running.sender.publish(Version(step=step), weights)
        running.run(running.staged(Version(step=step - 1)))
        with pytest.raises(BroadcastError, match=message):
            running.run(running.engine.apply(Version(step=step)))
    with pytest.raises(BroadcastError, match=r"version 0\.2000 is not staged"):
        running.run(running.engine.apply(Version(step=2000)))
    assert running.engine.version == serving
    request = running.request((4, 4, 4), temperature=0.9)
    (completion,) = running.sample([request])
    assert completion.spans == whole_span(serving, completion)
    assert running.distance(request, completion) <= PARITY
    running.sender.publish(Version(step=2000), good)
    running.weights[Version(step=2000)] = good
    running.run(running.staged(Version(step=1002)))
    running.run(running.engine.apply(Version(step=2000)))
    assert np.isfinite(running.sample([request])[0].logprobs).all()
    assert running.engine.version == Version(step=2000)


def test_a_version_of_the_log_is_applied_like_a_staged_one(running: EngineUnderTest, tmp_path: Path) -> None:
    staged_last, logged = running.engine.version, Version(step=1)
    store = FolderStore(tmp_path / "store")
    for version in (logged, staged_last):
        weights = running.weights[version]
        version_log.write(store, version, weights, digest(weights), False)
        running.run(running.engine.apply(version, file=version_log.fetch(store, version, tmp_path)))
        assert running.engine.version == version
        request = running.request((4, 5, 6), temperature=0.9)
        (completion,) = running.sample([request])
        assert completion.spans == whole_span(version, completion)
        assert running.distance(request, completion) <= PARITY
    (tmp_path / "0.1.safetensors").write_bytes(b"not a version")
    with pytest.raises(BroadcastError, match="weights unchanged"):
        running.run(running.engine.apply(logged, file=tmp_path / "0.1.safetensors"))
    assert running.engine.version == staged_last


@pytest.mark.parametrize("num_tokens", [1, 7, 29])
def test_a_continued_completion_is_the_uninterrupted_one_at_the_same_weights(running: EngineUnderTest, num_tokens: int) -> None:
    request = running.request((9, 8, 7, 6), max_tokens=30, temperature=0.0)
    (whole,) = running.sample([request])
    partial = first_part(whole, num_tokens)
    (rest,) = running.sample([continuation.continuing(request, partial)])
    continued = continuation.joined(partial, rest)
    assert continued.token_ids.tolist() == whole.token_ids.tolist()
    assert continued.spans == whole.spans
    assert continued.finish_reason is FinishReason.LENGTH
    np.testing.assert_allclose(continued.logprobs, whole.logprobs, atol=PARITY)


def first_part(completion: Completion, num_tokens: int) -> Partial:
    part = Completion(
        rollout_id=completion.rollout_id,
        token_ids=completion.token_ids[:num_tokens],
        logprobs=completion.logprobs[:num_tokens],
        spans=(VersionSpan(completion.spans[0].version, 0, num_tokens),),
        finish_reason=None,
        seconds=0.0,
    )
    partial = continuation.partial_of(part, handovers=1)
    assert partial is not None
    return partial


def test_an_interrupted_engine_gives_out_the_tokens_so_far_and_samples_no_more(running: EngineUnderTest) -> None:
    """The engine samples nothing afterwards."""
    requests = [running.request((2 + index, 3), max_tokens=240, temperature=0.0) for index in range(8)]
    uninterrupted = running.sample(requests)

    async def interrupt_in_flight() -> list[Completion]:
        async with asyncio.TaskGroup() as group:
            short = group.create_task(running.engine.sample(running.request((2, 3), max_tokens=5)))
            tasks = [group.create_task(running.engine.sample(request)) for request in requests]
            assert (await short).finish_reason is FinishReason.LENGTH
            await running.engine.interrupt()
        return [task.result() for task in tasks]

    version = running.engine.version
    for request, begun, whole in zip(requests, running.run(interrupt_in_flight()), uninterrupted, strict=True):
        num_tokens = len(begun.token_ids)
        assert begun.finish_reason is None
        assert 0 < num_tokens < 240
        assert begun.token_ids.tolist() == whole.token_ids[:num_tokens].tolist()
        assert begun.spans == (VersionSpan(version, 0, num_tokens),)
        assert len(begun.logprobs) == num_tokens
        greedy = running.request(request.prompt_ids, temperature=1.0)  # vLLM's logprobs of a greedy token are those of temperature 1
        assert running.distance(greedy, begun) <= PARITY
    assert running.engine.num_running == 0
    (late,) = running.sample([running.request((2, 3))])
    assert (late.finish_reason, len(late.token_ids), late.spans) == (None, 0, ())


def test_an_engine_that_hangs_is_found_by_its_silence(running: EngineUnderTest) -> None:
    """The last of this module: the engine has failed afterwards."""
    running.run(running.engine.answers(20.0))
    (process,) = [child for child in multiprocessing.active_children() if "EngineCore" in child.name]
    os.kill(process.pid or 0, signal.SIGSTOP)
    with pytest.raises(EngineError, match="has not answered for 1 s"):
        running.run(running.engine.answers(1.0))
    with pytest.raises(EngineError, match="has not answered"):
        running.sample([running.request((2, 3))])
    running.run(running.engine.shutdown())
    assert not [child for child in multiprocessing.active_children() if "EngineCore" in child.name]
