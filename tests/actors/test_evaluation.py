"""Laws of evaluations: one version, faults of ours in no rate, the first set first."""

from actors.evaluation import EvaluationPrompt, EvaluationRun, EvaluationSample, as_unverified, headline_set, is_evaluated, results
from rlvr.config import RunConfig
from rlvr.records import Verdict, VerdictKind, Version


def prompts(samples: int = 1) -> list[EvaluationPrompt]:
    return [
        EvaluationPrompt(set_name=name, problem_id=f"{name}-{number}", prompt_ids=(1,), gold="2", samples=samples)
        for name in ("heldout", "train")
        for number in range(2)
    ]


def run_of(kinds: list[str], *, samples: int = 1) -> tuple[EvaluationRun, list[Verdict]]:
    taken = tuple(EvaluationSample(prompt=index // samples, text="", is_truncated=False, num_tokens=4) for index in range(len(kinds)))
    verdicts = [
        Verdict(rollout_id=str(index), lease_id="", kind=VerdictKind(kind), reward=None if VerdictKind(kind).is_ours else float(kind == "correct"))
        for index, kind in enumerate(kinds)
    ]
    return EvaluationRun(version=Version(step=5), samples=taken, seconds=1.0), verdicts


def test_sets_are_reported_apart_and_in_their_order() -> None:
    run, verdicts = run_of(["correct", "wrong", "correct", "correct"])
    held_out, train = results(prompts(), run, verdicts, grader="firesteel", extract="all")
    assert (held_out.set, held_out.accuracy, train.set, train.accuracy) == ("heldout", 0.5, "train", 1.0)
    assert held_out.low < 0.5 < held_out.high
    assert (held_out.format_rate, train.format_rate) == (1.0, 1.0)
    assert (held_out.step, held_out.version) == (5, "0.5")


def test_a_fault_of_ours_is_in_no_rate_and_is_counted() -> None:
    run, verdicts = run_of(["correct", "timeout", "sandbox", "sandbox"])
    held_out, train = results(prompts(), run, verdicts, grader="firesteel", extract="all")
    assert (held_out.accuracy, held_out.unjudged) == (1.0, 1)
    assert (train.accuracy, train.format_rate, train.unjudged, train.low, train.high) == (None, None, 2, 0.0, 1.0)
    assert (held_out.mean_tokens, train.mean_tokens, train.truncated_rate) == (4.0, 4.0, 0.0)


def test_an_answer_that_was_not_found_lowers_the_format_rate_alone() -> None:
    run, verdicts = run_of(["correct", "no_answer", "wrong", "undecided"])
    held_out, train = results(prompts(), run, verdicts, grader="firesteel", extract="all")
    assert (held_out.format_rate, train.format_rate) == (0.5, 1.0)


def test_several_samples_give_pass_at_k() -> None:
    run, verdicts = run_of(["correct", "wrong", "wrong", "wrong", "wrong", "wrong", "correct", "correct"], samples=2)
    held_out, _ = results(prompts(2), run, verdicts, grader="firesteel", extract="all")
    assert held_out.pass_at == {"1": 0.25, "2": 0.5}


def test_a_verifier_sees_text_and_gold_in_order() -> None:
    run, _ = run_of(["correct"] * 4)
    assert [case.problem_id for case in as_unverified(prompts(), run.samples)] == ["heldout-0", "heldout-1", "train-0", "train-1"]


def test_the_first_the_last_and_every_nth_version_are_evaluated() -> None:
    assert [step for step in range(8) if is_evaluated(step, RunConfig(num_steps=7, eval_every_steps=3))] == [0, 3, 6, 7]
    assert [step for step in range(8) if is_evaluated(step, RunConfig(num_steps=7, eval_every_steps=0))] == [0, 7]


def test_the_summary_is_headed_by_the_first_greedy_set_that_is_held_out() -> None:
    sampled = [EvaluationPrompt(set_name="sampled", problem_id="s", prompt_ids=(1,), gold="2", samples=4, temperature=0.6)]
    assert headline_set([*sampled, *prompts()]) == "heldout"
    assert headline_set([*sampled, *prompts()[2:]]) is None
    assert headline_set([]) is None
