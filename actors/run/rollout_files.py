"""What the model said: the rollouts of a step as they are kept in `rollouts/STEP.msgpack.zst`, and how they are read again.

Owns the format: zstd over MessagePack, one list of records a step; text and verdict, no tokens.
"""

import msgpack
import msgspec
import zstandard

from rlvr.records import Batch

MAX_STEP_BYTES = 4 * 2**30


class KeptRollout(msgspec.Struct, frozen=True, kw_only=True):
    """One trained rollout, for people to read."""

    id: str
    step: int
    problem_id: str
    text: str
    kind: str
    reward: float | None
    answer: str | None
    versions: tuple[tuple[str, int, int], ...]
    """(version, start, end) of completion tokens."""
    num_tokens: int
    finish_reason: str
    mean_logprob: float
    generator: str = ""


def compress(batch: Batch) -> bytes:
    """The file of one step."""
    records = [
        KeptRollout(
            id=judged.rollout.id,
            step=batch.step,
            problem_id=judged.rollout.problem_id,
            text=judged.rollout.text,
            kind=judged.verdict.kind.value,
            reward=judged.verdict.reward,
            answer=judged.verdict.answer,
            versions=tuple((str(span.version), span.start, span.end) for span in judged.rollout.spans),
            num_tokens=judged.rollout.num_tokens,
            finish_reason=judged.rollout.finish_reason.value,
            mean_logprob=float(judged.rollout.logprobs.mean()),
            generator=judged.rollout.generator,
        )
        for judged in batch.rollouts
    ]
    packed: bytes = msgpack.packb(msgspec.to_builtins(records), unicode_errors="surrogatepass")
    return zstandard.ZstdCompressor(level=3).compress(packed)


def decompress(data: bytes) -> list[KeptRollout]:
    """Read one file back. Raises zstandard.ZstdError or msgspec.ValidationError where it is no such file."""
    packed = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_STEP_BYTES)
    return msgspec.convert(msgpack.unpackb(packed, unicode_errors="surrogatepass"), list[KeptRollout])
