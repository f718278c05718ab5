"""The table at the end of a run: what `evaluation.report` asks for, one row a version.

Owns which version is which: the last, the one with the best mean over the held-out sets, and the base under the same prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from actors.evaluation import TRAIN_SET

TITLES = {"last": "last version", "best_average": "best mean on the way", "base_same_prompt": "base, same prompts"}


def final_table(evaluations: Sequence[Mapping[str, Any]], report: Sequence[str]) -> Table | None:
    """evaluations: lines of evals.jsonl. None where nothing was evaluated or asked for. The best version is chosen on the sets that are shown."""
    by_step: dict[int, dict[str, Mapping[str, Any]]] = {}
    for line in evaluations:
        by_step.setdefault(line["step"], {})[line["set"]] = line
    if not (by_step and report):
        return None
    sets = list(by_step[min(by_step)])
    table = Table("", "version", *sets, title="accuracy, per cent")
    for which in report:
        step = _step_of(which, by_step)
        lines = by_step[step]
        cells = (_cell(lines.get(name)) for name in sets)
        table.add_row(TITLES[which], next(iter(lines.values()))["version"], *cells)
    return table


def _cell(line: Mapping[str, Any] | None) -> str:
    """An accuracy in per cent; a dash where the set was not evaluated, or no answer judged."""
    return "–" if line is None or line["accuracy"] is None else f"{100 * line['accuracy']:.1f}"


def _step_of(which: str, by_step: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> int:
    if which == "base_same_prompt":
        return min(by_step)
    if which == "last":
        return max(by_step)

    def mean(step: int) -> float:
        lines = [line for name, line in by_step[step].items() if name != TRAIN_SET] or list(by_step[step].values())
        rates = [line["accuracy"] for line in lines]
        return -1.0 if None in rates else float(sum(rates) / len(rates))  # what was not judged whole is not comparable

    return max(sorted(by_step), key=mean)
