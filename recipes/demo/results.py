"""What a run of the demo came to, and what may be claimed of it.

Owns the reading of a finished run folder and the margins. Called by `recipes.demo`; reads `summary.json` and `evals.jsonl`, never a run's internals.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.record import Claim
from recipes.demo.controls import FORMAT_ONLY, NO_CARRY, ONE_SHOT, SIXTEEN_SHOT, WRONG_LABEL
from rlvr.errors import UserError

HELDOUT_SET = "heldout"


class Rollouts(msgspec.Struct, frozen=True):
    accepted: int
    consumed: int
    dropped: dict[str, int]
    held: int


class Seconds(msgspec.Struct, frozen=True):
    setup: float
    training: float
    total: float


class Weights(msgspec.Struct, frozen=True):
    versions: int
    bytes_sent: int
    pause_seconds_max: float


class Summary(msgspec.Struct, frozen=True):
    """The part of `summary.json` that the demo shows; a run that failed early has no accuracies."""

    steps: int
    stopped: str
    rollouts: Rollouts
    tokens_generated: int
    staleness_max_seen: int
    verdicts: dict[str, int]
    seconds: Seconds
    rollouts_per_second: float
    weights: Weights
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    train_accuracy_after: float | None = None
    error: str | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """One line of `evals.jsonl`."""

    step: int
    set: str
    accuracy: float | None
    low: float
    high: float
    format_rate: float | None


@dataclass(frozen=True)
class Result:
    """A run that ended. Accuracies are points, 0 to 100, greedy on the held-out problems."""

    label: str
    summary: Summary
    evaluations: tuple[Evaluation, ...]

    @property
    def is_finished(self) -> bool:
        return self.summary.stopped == "finished" and None not in (self.summary.accuracy_before, self.summary.accuracy_after)

    @property
    def before(self) -> float:
        return points(self.summary.accuracy_before)

    @property
    def after(self) -> float:
        return points(self.summary.accuracy_after)

    @property
    def heldout(self) -> tuple[Evaluation, ...]:
        judged = (each for each in self.evaluations if each.set == HELDOUT_SET and each.accuracy is not None)
        return tuple(sorted(judged, key=lambda each: each.step))

    @property
    def best_on_the_way(self) -> float:
        return max([self.before, self.after, *(points(each.accuracy) for each in self.heldout)])


def points(share: float | None) -> float:
    """A fraction as points, to the tenth."""
    return float("nan") if share is None else round(100 * share, 1)


def read_result(run_dir: Path, label: str) -> Result | None:
    """The result that a run left in its folder; None where it left no summary. Raises UserError where the files are not a run's."""
    summary, evaluations = run_dir / "summary.json", run_dir / "evals.jsonl"
    if not summary.is_file():
        return None
    lines = evaluations.read_text(encoding="utf-8").splitlines() if evaluations.is_file() else []
    try:
        return Result(
            label=label,
            summary=msgspec.json.decode(summary.read_bytes(), type=Summary),
            evaluations=tuple(msgspec.json.decode(line, type=Evaluation) for line in lines),
        )
    except msgspec.MsgspecError as error:
        raise UserError(f"{run_dir} does not hold a run's summary and evaluations: {error}") from error


def at_least(claim: str, measured: float, aim: float) -> Claim:
    return Claim(claim=f"{claim}, at least", measured=round(measured, 1), aim=aim, unit="points")


def at_most(claim: str, measured: float, aim: float) -> Claim:
    return Claim(claim=f"{claim}, at most", measured=round(measured, 1), aim=aim, unit="points", at_most=True)


def one_shot_claims(one_shot: Result) -> list[Claim]:
    """What every run of the demo asserts: the base lies where the task puts it, and one problem lifts it."""
    return [
        at_least(f"{one_shot.label}: held-out accuracy of the base", one_shot.before, 25.0),
        at_most(f"{one_shot.label}: held-out accuracy of the base", one_shot.before, 50.0),
        at_least(f"{one_shot.label}: gain at the last step over the base", one_shot.after - one_shot.before, 40.0),
    ]


def control_claims(results: Mapping[str, Result]) -> list[Claim]:
    """All margins, of one run of each arm by the arm's name. Figures on the way count for the format reward only, where they favour the control."""
    one_shot, sixteen, form = results[ONE_SHOT.name], results[SIXTEEN_SHOT.name], results[FORMAT_ONLY.name]
    wrong, no_carry = results[WRONG_LABEL.name], results[NO_CARRY.name]
    return [
        *one_shot_claims(one_shot),
        at_least("one-shot at the last step, over the best of format-only on the way", one_shot.after - form.best_on_the_way, 15.0),
        at_most("wrong-label at the last step, over its base", wrong.after - wrong.before, 5.0),
        at_most("sixteen-shot over one-shot at the last step", sixteen.after - one_shot.after, 10.0),
        at_least("one-shot over no-carry at the last step", one_shot.after - no_carry.after, 20.0),
    ]


def worst(results: list[Result]) -> Result:
    """The run with the lowest accuracy at its last step."""
    return min(results, key=lambda result: result.after)


def as_details(result: Result) -> dict[str, Any]:
    """The run in plain values, for a results file."""
    plain: dict[str, Any] = json.loads(msgspec.json.encode(result.summary))
    curve = {str(each.step): points(each.accuracy) for each in result.heldout}
    return {"label": result.label, "heldout_points_by_step": curve, "best_on_the_way": result.best_on_the_way, **plain}
