"""What the demo claims: margins from summaries, what is read from a run folder, what is printed and written."""

import io
import json
from pathlib import Path

import msgspec
import pytest
from demo_runs import CONTROLS, summary_of, write_run
from rich.console import Console

from benchmarks.record import write
from recipes.demo import report
from recipes.demo.results import Result, Summary, control_claims, one_shot_claims, read_result, worst
from rlvr.errors import UserError


def result_of(folder: Path, label: str, before: float, after: float, *, best: float | None = None) -> Result:
    result = read_result(write_run(folder / label, before, after, best=best), label)
    assert result is not None
    return result


def controls(folder: Path, **changed: tuple[float, float]) -> dict[str, Result]:
    figures = CONTROLS | {name.replace("_", "-"): pair for name, pair in changed.items()}
    return {name: result_of(folder, name, *pair) for name, pair in figures.items()}


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        (37.5, 77.5, [True, True, True]),
        (37.5, 77.0, [True, True, False]),
        (24.5, 99.0, [False, True, True]),
        (25.0, 65.0, [True, True, True]),
        (50.0, 90.0, [True, True, True]),
        (50.5, 99.0, [True, False, True]),
    ],
)
def test_one_problem_must_lift_a_base_between_25_and_50_by_40_points(before: float, after: float, holds: list[bool], tmp_path: Path) -> None:
    assert [claim.holds for claim in one_shot_claims(result_of(tmp_path, "one-shot", before, after))] == holds


@pytest.mark.parametrize(
    ("arm", "pair", "missed"),
    [
        ("one_shot", (37.5, 97.5), None),
        ("format_only", (37.5, 82.5), None),
        ("format_only", (37.5, 83.0), "one-shot at the last step, over the best of format-only on the way, at least"),
        ("wrong_label", (37.5, 43.0), "wrong-label at the last step, over its base, at most"),
        ("sixteen_shot", (37.5, 108.0), "sixteen-shot over one-shot at the last step, at most"),
        ("no_carry", (37.5, 78.0), "one-shot over no-carry at the last step, at least"),
    ],
)
def test_each_control_has_its_margin(arm: str, pair: tuple[float, float], missed: str | None, tmp_path: Path) -> None:
    claims = control_claims(controls(tmp_path, **{arm: pair}))
    assert [claim.claim for claim in claims if not claim.holds] == ([] if missed is None else [missed])


def test_the_format_reward_counts_with_its_best_step_and_everything_else_with_its_last(tmp_path: Path) -> None:
    results = controls(tmp_path / "plain")
    results["format-only"] = result_of(tmp_path, "format-only", 37.5, 40.0, best=83.0)
    results["wrong-label"] = result_of(tmp_path, "wrong-label", 37.5, 30.0, best=60.5)
    assert [claim.claim for claim in control_claims(results) if not claim.holds] == [
        "one-shot at the last step, over the best of format-only on the way, at least"
    ]


def test_the_worst_of_the_seeds_is_the_lowest_at_its_end(tmp_path: Path) -> None:
    results = [result_of(tmp_path, f"seed {seed}", 37.5, after) for seed, after in enumerate((99.5, 96.0, 100.0))]
    assert worst(results).label == "seed 1"


def test_a_run_that_failed_has_no_accuracies_and_is_not_finished(tmp_path: Path) -> None:
    failed = read_result(write_run(tmp_path / "demo", 37.5, None, stopped="failed"), "one-shot")
    assert failed is not None
    assert not failed.is_finished
    assert [claim.holds for claim in one_shot_claims(failed)] == [True, True, False]
    assert ("held-out after", "—") in report.rows(failed)


def test_a_folder_without_a_summary_has_no_result_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    assert read_result(tmp_path, "one-shot") is None
    (tmp_path / "summary.json").write_text('{"steps": "many"}')
    with pytest.raises(UserError, match="does not hold a run's summary"):
        read_result(tmp_path, "one-shot")


def test_the_table_says_what_was_dropped_and_why(tmp_path: Path) -> None:
    result = result_of(tmp_path, "one-shot", 37.5, 97.5)
    rows = dict(report.rows(result))
    assert rows["held-out before"] == "37.5 (32–42)"
    assert rows["held-out after"] == "97.5 (92–102)"
    assert rows["rollouts dropped"] == "12 stale, 8 shutdown"
    assert rows["longest pause"] == "117 ms"
    output = io.StringIO()
    report.print_results(Console(file=output, width=100), "One problem", [result])
    report.print_claims(Console(file=output, width=100), one_shot_claims(result))
    text = output.getvalue()
    assert all(name in text and value in text for name, value in rows.items())
    assert "0: 37.5  30: 97.5  60: 97.5" in text
    assert text.count("holds") == 3


def test_a_results_file_holds_only_where_every_claim_does(tmp_path: Path) -> None:
    good = one_shot_claims(result_of(tmp_path, "seed 0", 37.5, 97.5))
    bad = one_shot_claims(result_of(tmp_path, "seed 1", 37.5, 60.0))
    for name, claims, holds in (("good", good, True), ("bad", good + bad, False), ("none", [], False)):
        line = write(name, claims, command="python -m recipes.demo", details={}, folder=tmp_path / "results")
        record = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        assert json.loads(line) == record
        assert record["holds"] is holds
        assert set(record) == {"name", "claims", "holds", "command", "commit", "machine", "date", "details"}
        assert all(set(claim) == {"claim", "measured", "aim", "unit", "holds"} for claim in record["claims"])


def test_the_markdown_table_has_a_line_a_run(tmp_path: Path) -> None:
    lines = report.markdown([result_of(tmp_path, f"seed {seed}", 37.5, 97.5) for seed in range(3)]).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_a_summary_may_grow(tmp_path: Path) -> None:
    assert msgspec.convert(summary_of(37.5, 97.5) | {"new": 1}, Summary).steps == 60


def test_an_evaluation_that_was_not_judged_is_no_point_of_the_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", 37.5, 97.5)
    evaluations = folder / "evals.jsonl"
    lines = [json.loads(line) for line in evaluations.read_text().splitlines()]
    lines = [{**line, "accuracy": None, "format_rate": None} if line["step"] == 30 else line for line in lines]
    evaluations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = read_result(folder, "one-shot")
    assert result is not None
    assert [each.step for each in result.heldout] == [0, 60]
    assert result.best_on_the_way == 97.5
