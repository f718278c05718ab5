"""From a verdict to the number that trains: the built-in rewards, and those that users bring along.

Owns the `Reward` protocol and the table of built-in ones. Called by `verify` for verdicts that are the model's own; a fault of ours never gets here.
A user's reward (entry point group `firesteel.rewards`) sees model text, so it runs in a sandbox of its own, loaded before the lock.
"""

import functools
import hashlib
import importlib.metadata
import math
from collections.abc import Callable
from typing import Protocol

import msgspec

from rlvr.config import RewardConfig
from rlvr.errors import UserError
from rlvr.records import VerdictKind
from verifier.answers import literal_value, parse
from verifier.extract import extract

ENTRY_POINTS = "firesteel.rewards"


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """A judged completion, as a reward sees it. kind is never a fault of ours."""

    rollout_id: str
    problem_id: str
    kind: VerdictKind
    answer: str | None
    text: str
    gold: str
    num_tokens: int = 0
    is_truncated: bool = False


class Reward(Protocol):
    """A finite number for a judged completion; the same number for the same argument."""

    def __call__(self, graded: Graded, /) -> float: ...


def built_in(config: RewardConfig, *, seed: int) -> Reward | None:
    """The built-in reward that `config` names; None when the name is no built-in one."""
    make = _BUILT_IN.get(config.kind)
    return None if make is None else make(config, seed)


def users_reward(kind: str) -> str:
    """`module:function` of the user's reward `kind`, not loaded. Raises UserError that lists what there is."""
    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if kind not in found:
        names = ", ".join([*_BUILT_IN, *sorted(found)])
        raise UserError(f"reward.kind {kind!r} is unknown: there are {names}; others register under the entry point group {ENTRY_POINTS}")
    return found[kind]


def _outcome(config: RewardConfig, seed: int) -> Reward:
    by_kind = {
        VerdictKind.CORRECT: config.correct,
        VerdictKind.WRONG: config.wrong,
        VerdictKind.UNDECIDED: config.wrong,
        VerdictKind.NO_ANSWER: config.no_answer,
    }
    return lambda graded: by_kind[graded.kind]


def _format(config: RewardConfig, seed: int) -> Reward:
    """`correct` when the last box holds a parsed answer, right or wrong, else `no_answer`."""
    return lambda graded: config.correct if _is_well_formed(graded.text, config.literal) else config.no_answer


def _outcome_and_format(config: RewardConfig, seed: int) -> Reward:
    outcome = _outcome(config, seed)
    return lambda graded: outcome(graded) + (config.format_bonus if _is_well_formed(graded.text, config.literal) else 0.0)


def _random(config: RewardConfig, seed: int) -> Reward:
    """A coin that knows nothing of the answer: the control for rewards that seem to teach."""

    def toss(graded: Graded) -> float:
        drawn = hashlib.blake2b(f"{seed}/{graded.rollout_id}".encode("utf-8", "replace"), digest_size=8).digest()
        return config.correct if int.from_bytes(drawn) < config.random_probability * 2**64 else config.wrong

    return toss


def _length(config: RewardConfig, seed: int) -> Reward:
    """Outcome, plus for a right answer a bonus that falls from `length_weight` at no tokens to its negative at twice the target.

    A wrong answer gets no bonus for being short; it loses the same when it is longer than the target.
    """
    outcome = _outcome(config, seed)

    def weigh(graded: Graded) -> float:
        share = math.cos(min(math.pi / 2 * graded.num_tokens / config.length_target_tokens, math.pi))
        return outcome(graded) + config.length_weight * (share if graded.kind is VerdictKind.CORRECT else min(0.0, share))

    return weigh


def _none(config: RewardConfig, seed: int) -> Reward:
    return lambda graded: 0.0


@functools.lru_cache(maxsize=4096)
def _is_value(answer: str, is_literal: bool) -> bool:
    return literal_value(answer) if is_literal else parse(answer) is not None


def _is_well_formed(text: str, is_literal: bool) -> bool:
    answer = extract(text, "last_boxed")
    return answer is not None and _is_value(answer, is_literal)


_BUILT_IN: dict[str, Callable[[RewardConfig, int], Reward]] = {
    "outcome": _outcome,
    "format": _format,
    "outcome_and_format": _outcome_and_format,
    "random": _random,
    "length": _length,
    "none": _none,
}
