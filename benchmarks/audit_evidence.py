"""What a run has left beside its journal: configuration, trained steps, kept rollouts, checkpoints.

Owns how these files are read for an audit, by their formats alone. Called by `benchmarks.audit`.
"""

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import zstandard

CUT = "chaos-cut.json"
"""Ids that a chaos run itself has cut out of the journal's tail: nobody can be asked for them."""
MAX_STEP_BYTES = 4 * 2**30

Spans = tuple[tuple[str, int, int], ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One run, the journal left out."""

    max_staleness: int
    order: str
    trained: frozenset[tuple[int, int]]
    """(step, lineage) of every line of metrics.jsonl."""
    trained_twice: tuple[tuple[int, int], ...]
    kept: dict[int, dict[str, Spans]]
    """By step: id and versions of every rollout that the learner was given last."""
    checkpoints: tuple[int, ...]
    cut_ids: frozenset[str]


def read_evidence(store: Path, run: Path) -> Evidence:
    """Raises FileNotFoundError where neither folder has the run's configuration."""
    config = _config(store, run)
    steps = [(int(line["step"]), int(line["lineage"])) for line in _lines(run / "metrics.jsonl")]
    cut = run / CUT
    return Evidence(
        max_staleness=int(config["rollout"]["max_staleness"]),
        order=str(config["queue"]["order"]),
        trained=frozenset(steps),
        trained_twice=tuple(sorted(step for step, times in Counter(steps).items() if times > 1)),
        kept={int(file.name.partition(".")[0]): _kept(file) for file in sorted((run / "rollouts").glob("*.msgpack.zst"))},
        checkpoints=tuple(sorted(_checkpoints(store / "checkpoints"))),
        cut_ids=frozenset(json.loads(cut.read_text(encoding="utf-8")) if cut.is_file() else ()),
    )


def _config(store: Path, run: Path) -> dict[str, Any]:
    places = [run / "config.toml", store / "history" / "config.toml"]
    for place in places:
        if place.is_file():
            return tomllib.loads(place.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"none of {', '.join(map(str, places))} is there: an audit needs the run's configuration")


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a driver that was killed leaves a cut last one, and the next one writes behind it."""
    lines: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _kept(file: Path) -> dict[str, Spans]:
    packed = zstandard.ZstdDecompressor().decompress(file.read_bytes(), max_output_size=MAX_STEP_BYTES)
    records = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    return {record["id"]: tuple((str(label), int(start), int(end)) for label, start, end in record["versions"]) for record in records}


def _checkpoints(folder: Path) -> list[int]:
    """Steps of the checkpoints that have their marker."""
    steps: list[int] = []
    for marker in folder.glob("step-*/checkpoint.json"):
        version = json.loads(marker.read_text(encoding="utf-8"))["version"]
        steps.append(int(str(version).partition(".")[2]))
    return steps
