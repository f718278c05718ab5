"""Laws of a run's facts: what every process of a run has done adds up, and a step's newest evaluation is its evaluation."""

import msgspec
import pytest

from actors.evaluation import EvaluationResult
from actors.run import facts as run_facts
from actors.run.facts import Employed, RunFacts
from actors.run.history import FactsSoFar, Usage
from actors.run.summary import ProcessSummary


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_facts, "time", clock)
    return clock


def result(step: int, version: str, accuracy: float) -> EvaluationResult:
    return EvaluationResult(
        step=step,
        version=version,
        set="held",
        accuracy=accuracy,
        low=0.0,
        high=1.0,
        format_rate=1.0,
        truncated_rate=0.0,
        mean_tokens=1.0,
        num_problems=1,
        samples_per_problem=1,
        unjudged=0,
        pass_at={},
        grader="firesteel",
        extract="all",
        seconds=1.0,
    )


def test_processes_and_gpus_are_counted_as_long_as_they_work(clock: Clock) -> None:
    facts = RunFacts("r", headline_set=None)
    clock.time += 5.0
    facts.employs({"generator": Employed(processes=1, gpus=2.0), "verifier": Employed(processes=1)})
    clock.time += 10.0
    facts.employs({"generator": Employed(processes=3, gpus=6.0)})
    clock.time += 10.0
    assert facts.usage == {
        "generator": Usage(process_seconds=40.0, gpu_seconds=80.0),
        "verifier": Usage(process_seconds=10.0, gpu_seconds=0.0),
    }


def test_a_resumed_run_goes_on_from_what_it_was(clock: Clock) -> None:
    def worked(facts: RunFacts) -> FactsSoFar:
        clock.time += 7.0
        facts.stands(ProcessSummary(generators=1, verifiers=1, learner_ranks=1))
        facts.employs({"learner": Employed(processes=1, gpus=1.0)})
        facts.restarts["queue"] += 1
        facts.pauses = [0.5]
        clock.time += 3.0
        return msgspec.json.decode(msgspec.json.encode(facts.so_far()), type=FactsSoFar)

    first = worked(RunFacts("r", headline_set=None, num_steps=9))
    clock.time += 1000.0  # nobody's
    second = worked(RunFacts("r", headline_set=None, num_steps=9, before=first))
    assert second.setup_seconds == 14.0
    assert second.total_seconds == 20.0
    assert second.resumes == 1
    assert second.restarts == {"queue": 2}
    assert second.usage == {"learner": Usage(process_seconds=6.0, gpu_seconds=6.0)}
    assert second.pause_seconds_max == 0.5
    summary = RunFacts("r", headline_set=None, before=second).summary(stopped="finished", error=None)
    assert (summary.seconds.total, summary.resumes, summary.restarts) == (20.0, 2, {"queue": 2})
    assert summary.usage["learner"].gpu_seconds == 6.0


def test_after_a_roll_back_the_newest_evaluation_of_a_step_counts(clock: Clock) -> None:
    facts = RunFacts("r", headline_set="held", results=[result(0, "0.0", 0.1), result(5, "0.5", 0.3)])
    facts.results.append(result(5, "1.5", 0.6))
    assert facts.accuracy("held", step=5) == 0.6
    assert facts.accuracy("held", step=0) == 0.1
    assert facts.accuracy("held", step=7) is None
