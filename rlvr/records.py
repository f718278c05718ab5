"""The vocabulary of the main path: what generators, queue, verifiers and learner hand to each other.

Owns the records and nothing else. Every record is frozen and born complete; token ids and logprobs are little-endian bytes, so that a record
is hashable, comparable and crosses the wire (`rlvr.wire`) without a list of Python numbers.
"""

import enum
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

TOKEN_DTYPE = np.dtype("<i4")
LOGPROB_DTYPE = np.dtype("<f4")


class Version(msgspec.Struct, frozen=True, order=True):
    """One state of the policy's weights: step k makes version k, version 0 is the start; a roll-back starts the next lineage."""

    lineage: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"{self.lineage}.{self.step}"

    @classmethod
    def parse(cls, label: str) -> Self:
        """Read `lineage.step`, as vLLM's spans carry it. Raises ValueError when the label is another."""
        lineage, dot, step = label.partition(".")
        if not (dot and lineage.isdigit() and step.isdigit()):
            raise ValueError(f"a policy version is written lineage.step, got {label!r}")
        return cls(lineage=int(lineage), step=int(step))


class VersionSpan(msgspec.Struct, frozen=True):
    """Completion tokens [start, end) were sampled from `version`."""

    version: Version
    start: int
    end: int


class SampledTokens:
    """Reads the tokens of a record that has these three fields; no struct of its own, so that each record orders its fields on the wire itself."""

    __slots__ = ()
    token_data: bytes
    logprob_data: bytes
    spans: tuple[VersionSpan, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.token_data) // TOKEN_DTYPE.itemsize

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """[T] int32, read-only."""
        return np.frombuffer(self.token_data, TOKEN_DTYPE)

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """[T] float32 nats, read-only."""
        return np.frombuffer(self.logprob_data, LOGPROB_DTYPE)

    @property
    def oldest_version(self) -> Version:
        """The one of the lowest step: staleness counts steps, whatever their lineage."""
        return min((span.version for span in self.spans), key=lambda version: version.step)

    def _require_whole(self, name: str) -> None:
        """Raise ValueError unless there is a token, each has its logprob, and the spans cover them without a gap."""
        if len(self.token_data) != len(self.logprob_data) or len(self.token_data) % TOKEN_DTYPE.itemsize:
            raise ValueError(f"{name}: {len(self.token_data)} token bytes and {len(self.logprob_data)} logprob bytes do not pair up")
        if not self.token_data:
            raise ValueError(f"{name}: a completion has at least one token")
        edge = 0
        for span in self.spans:
            if span.start != edge or span.end <= span.start:
                raise ValueError(f"{name}: version spans {self.spans} leave a gap at token {edge}")
            edge = span.end
        if edge != self.num_tokens:
            raise ValueError(f"{name}: version spans cover {edge} of {self.num_tokens} tokens")


class FinishReason(enum.StrEnum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # cut at the completion or context limit: the completion is truncated


class VerdictKind(enum.StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"  # parsed, compared, different: reward 0, trains
    NO_ANSWER = "no_answer"  # the model's fault: reward 0, trains
    UNDECIDED = "undecided"  # not settled within a fixed CPU budget: reward 0, trains, counted
    TIMEOUT = "timeout"  # the wall clock, ours: retried once, then excluded from the group, counted
    SANDBOX = "sandbox"  # a broken worker, ours: the same, alerted

    @property
    def is_ours(self) -> bool:
        """True where the fault is the system's: such a rollout has no reward and never trains."""
        return self in (VerdictKind.TIMEOUT, VerdictKind.SANDBOX)


class DropReason(enum.StrEnum):
    STALE = "stale"  # older than max_staleness when its batch was made
    EXCLUDED = "excluded"  # its verdict was ours (timeout, sandbox) or `undecided` under verifiers.undecided = "exclude"
    INCOMPLETE = "incomplete"  # deterministic mode: its step was not complete when the queue died, and is sampled again whole
    SHUTDOWN = "shutdown"  # the run finished without it


class WorkerLoss(enum.StrEnum):
    """Why a sandboxed worker was given up."""

    WALL = "wall"  # silent past the wall deadline
    CPU = "cpu"  # spent its CPU budget
    MEMORY = "memory"  # its address space or Python's stack
    ERROR = "error"  # the rules raised
    IMPORT = "import"  # the rules wanted a module that was not loaded before the lock
    PROTOCOL = "protocol"  # bytes that it may not send
    FORBIDDEN = "forbidden"  # a system call outside its allow-list
    DIED = "died"  # crashed or left
    KILLED = "killed"  # by a SIGKILL that was not ours, which no text can bring about
    SENTINEL = "sentinel"  # misjudged a known pair
    RECYCLED = "recycled"  # old or grown, no fault


class PartialFate(enum.StrEnum):
    """What became of an unfinished completion that a leaving generator handed back."""

    CONTINUED = "continued"  # leased again with its tokens
    TOO_OLD = "too_old"  # its oldest token could not train in time: its place is sampled from the start
    UNFIT = "unfit"  # it does not fit its lease


class Partial(SampledTokens, msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished completion: what a leaving generator has of it, for another one to continue. Data and spans as in `Rollout`."""

    rollout_id: str
    token_data: bytes
    logprob_data: bytes
    spans: tuple[VersionSpan, ...]
    handovers: int = 1
    """Generators that have left it so far."""

    def __post_init__(self) -> None:
        self._require_whole(f"partial {self.rollout_id}")


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to sample some completions of one group, until `deadline_s` seconds after it was given.

    The prompt travels here once and not with each rollout. `id` carries the queue's incarnation.
    """

    id: str
    problem_id: str
    group_id: str
    rollout_ids: tuple[str, ...]
    prompt_ids: tuple[int, ...]
    step: int
    """The step that will train these rollouts."""
    seeds: tuple[int, ...] | None = None
    """One request seed a rollout; only in deterministic mode."""
    deadline_s: float = 0.0
    partials: tuple[Partial, ...] = ()
    """What others have sampled already of some of `rollout_ids`: these are continued, the others start."""


class Rollout(SampledTokens, msgspec.Struct, frozen=True, kw_only=True):
    """One finished completion.

    token_data: int32 ids of the completion, its stop token included. logprob_data: float32 nats of each of them under the *sampling* distribution
    (temperature included). spans: cover the completion without a gap, oldest first.
    """

    id: str
    problem_id: str
    group_id: str
    lease_id: str
    token_data: bytes
    logprob_data: bytes
    spans: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    seconds: float
    text: str
    """The completion as the verifier reads it: special tokens left out."""
    generator: str = ""
    """Who sampled it, or its end."""
    handovers: int = 0
    """Generators that left it unfinished on the way."""

    def __post_init__(self) -> None:
        self._require_whole(f"rollout {self.id}")

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason is FinishReason.LENGTH


class Unverified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verifier gets to see of a rollout: text and gold answer, never tokens."""

    rollout_id: str
    lease_id: str
    problem_id: str
    text: str
    gold: str
    is_truncated: bool = False
    num_tokens: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement of one completion. `reward` is None where the fault is ours; `answer` is the extracted text."""

    rollout_id: str
    lease_id: str
    kind: VerdictKind
    reward: float | None
    answer: str | None = None
    seconds: float = 0.0
    stage: str = ""
    """Where it was decided: cache, parent or worker."""

    def __post_init__(self) -> None:
        if self.kind.is_ours != (self.reward is None):
            raise ValueError(f"a verdict of kind {self.kind} has reward {self.reward}: only a fault of ours has none")


class JudgedRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout with the verdict that trains it."""

    rollout: Rollout
    verdict: Verdict


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts of one training step: whole groups, in the queue's order.

    prompts: prompt token ids by problem id. short: members that groups of this batch lack.
    """

    step: int
    lineage: int
    rollouts: tuple[JudgedRollout, ...]
    prompts: dict[str, tuple[int, ...]]
    short: int = 0
