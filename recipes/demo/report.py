"""What the demo prints and writes: the table, the claims with their verdicts, the results files.

Owns the layout. Called by `recipes.demo`; decides nothing.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.record import Claim
from recipes.demo.results import Result, points

NOT_MEASURED = "—"


def rows(result: Result) -> list[tuple[str, str]]:
    """(name, value) of everything that is shown of one run."""
    summary = result.summary
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary.rollouts.dropped.items() if count) or "0"
    return [
        ("held-out before", _accuracy(result, summary.accuracy_before, first=True)),
        ("held-out after", _accuracy(result, summary.accuracy_after, first=False)),
        ("training problem after", _points(summary.train_accuracy_after)),
        ("steps", str(summary.steps)),
        ("rollouts trained", str(summary.rollouts.consumed)),
        ("rollouts dropped", dropped),
        ("rollouts per second", f"{summary.rollouts_per_second:.0f}"),
        ("seconds: set-up", f"{summary.seconds.setup:.0f}"),
        ("seconds: training", f"{summary.seconds.training:.0f}"),
        ("seconds: in all", f"{summary.seconds.total:.0f}"),
        ("largest staleness", str(summary.staleness_max_seen)),
        ("longest pause", f"{1000 * summary.weights.pause_seconds_max:.0f} ms"),
        ("stopped", summary.stopped),
    ]


def _points(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{points(share):.1f}"


def _accuracy(result: Result, share: float | None, *, first: bool) -> str:
    """Accuracy in points with its interval, where the evaluation that it comes from is known."""
    if share is None or not result.heldout:
        return _points(share)
    evaluation = result.heldout[0 if first else -1]
    return f"{_points(share)} ({points(evaluation.low):.0f}–{points(evaluation.high):.0f})"


def print_results(console: Console, title: str, results: Sequence[Result]) -> None:
    """One table, a column a run, then each run's held-out accuracy by step."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.label, justify="right")
    columns = [rows(result) for result in results]
    for cells in zip(*columns, strict=True):
        table.add_row(cells[0][0], *(value for _, value in cells))
    console.print(table)
    for result in results:
        curve = "  ".join(f"{each.step}: {points(each.accuracy):.1f}" for each in result.heldout)
        console.print(f"{result.label}, held-out accuracy by step  {curve or NOT_MEASURED}", highlight=False)
        if result.summary.error:
            console.print(f"{result.label} ended with: {result.summary.error}", markup=False)


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    for claim in claims:
        verdict = "[green]holds[/]" if claim.holds else "[bold red]MISSED[/]"
        console.print(f"{verdict}  {claim.claim} {claim.aim:g} {claim.unit}: {claim.measured:g}", highlight=False)


def markdown(results: Sequence[Result]) -> str:
    """The table in Markdown, a line a run."""
    columns = [rows(result) for result in results]
    lines = ["| run | " + " | ".join(name for name, _ in columns[0]) + " |", "|---" * (len(columns[0]) + 1) + "|"]
    lines += [f"| {result.label} | " + " | ".join(value for _, value in column) + " |" for result, column in zip(results, columns, strict=True)]
    return "\n".join(lines) + "\n"
