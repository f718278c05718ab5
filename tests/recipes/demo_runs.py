"""Run folders of the demo as `firesteel run` leaves them, with given figures."""

import json
from pathlib import Path

CONTROLS = {
    "one-shot": (37.5, 97.5),
    "sixteen-shot": (37.5, 99.5),
    "format-only": (37.5, 52.5),
    "wrong-label": (37.5, 30.5),
    "no-carry": (37.5, 62.5),
}


def summary_of(before: float | None, after: float | None, *, stopped: str = "finished", error: str | None = None) -> dict[str, object]:
    return {
        "name": "demo", "steps": 60, "versions_published": 60,
        "accuracy_before": None if before is None else before / 100, "accuracy_after": None if after is None else after / 100,
        "train_accuracy_after": 1.0,
        "rollouts": {"accepted": 7700, "consumed": 7680, "dropped": {"stale": 12, "shutdown": 8, "excluded": 0}, "held": 0},
        "tokens_generated": 170_000, "staleness_max_seen": 2, "verdicts": {"correct": 5000, "wrong": 2700},
        "processes": {"generators": 1, "verifiers": 1, "learner_ranks": 1}, "seconds": {"setup": 41.0, "training": 62.0, "total": 110.0},
        "rollouts_per_second": 123.9, "weights": {"versions": 60, "bytes_sent": 41_456_640, "pause_seconds_max": 0.117},
        "stopped": stopped, "error": error,
    }  # fmt: skip


def write_run(folder: Path, before: float | None, after: float | None, *, best: float | None = None, stopped: str = "finished") -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary_of(before, after, stopped=stopped)))
    curve = [(0, before), (30, after if best is None else best), (60, after)]
    lines = [
        {"step": step, "version": f"0.{step}", "set": name, "accuracy": value / 100, "low": value / 100 - 0.05, "high": value / 100 + 0.05,
         "format_rate": 0.9, "num_problems": 200, "samples_per_problem": 1, "seconds": 1.0}
        for step, value in curve if value is not None for name in ("heldout", "train")
    ]  # fmt: skip
    (folder / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
