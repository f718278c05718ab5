"""The commands that only look: `status`, `rollouts`, `config`.

Owns their output. They read the run folder; `status` asks a live run's controller over HTTP. They change nothing and need neither Ray nor torch.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from actors.run.cost import CostSummary, in_words
from actors.run.folder import EVALUATIONS, EVENTS, METRICS, RunFolder
from actors.run.live_run import ask_status, silence
from actors.run.rollout_files import KeptRollout, decompress
from rlvr.config_file import dump_config, load_config
from rlvr.config_schema import explain
from rlvr.errors import ConfigError, UserError
from rlvr.records import VerdictKind

LAST_EVENTS = 8
MOST_LEASES = 20

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What a model could write to steer the terminal of whoever reads it."""


def status(run_dir: Path, *, as_json: bool) -> None:
    """Show what a run is doing, or how it ended."""
    folder = RunFolder.open(run_dir)
    facts = _facts(folder)
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    console = Console()
    live, summary = facts["live"], facts["summary"]
    if live is not None:
        _show_live(console, live)
    elif summary is not None:
        console.print(f"{summary['name']}: {summary['stopped']} after {summary['steps']} steps, {summary['rollouts']['consumed']} rollouts trained")
        if summary["error"]:
            console.print(f"error: {summary['error']}", markup=False)
    else:
        console.print(silence(folder), markup=False, soft_wrap=True)
    for event in facts["events"]:
        rest = {key: value for key, value in event.items() if key not in ("time", "event", "targets") and value is not None}
        console.print(f"{event['time']}  {event['event']}  {' '.join(f'{key}={value}' for key, value in rest.items())}", markup=False, soft_wrap=True)


def rollouts(run_dir: Path, *, step: int | None, kind: str | None, grep: str | None) -> None:
    """Print what the model said, with verdict and version. Raises UserError where nothing can match."""
    kinds = [one.value for one in VerdictKind]
    if kind is not None and kind not in kinds:
        raise UserError(f"--kind {kind}: the kinds are {', '.join(kinds)}")
    folder = RunFolder.open(run_dir)
    files = list(folder.rollout_files(step))
    if not files:
        known = [number for number, _ in folder.rollout_files()]
        kept = f"kept are steps {known[0]} to {known[-1]}" if known else "the run has kept none yet"
        raise UserError(f"there are no rollouts{f' of step {step}' if step is not None else ''} in {run_dir}: {kept}")
    for number, data in files:
        for record in decompress(data):
            if (kind is None or record.kind == kind) and (grep is None or grep in record.text):
                sys.stdout.write(_line(number, record))


def config(file: Path | None, overrides: Sequence[str]) -> None:
    """Print every key, or one file's resolved values."""
    if file is not None:
        sys.stdout.write(dump_config(load_config(file, overrides)))
        return
    if overrides:
        raise ConfigError("--set needs a run file to set keys of: firesteel config RUN.toml --set K=V")
    for key in explain():
        unit = f" [{key.unit}]" if key.unit else ""
        sys.stdout.write(f"{key.name} = {key.default}  # {key.type}{unit}: {key.meaning}\n")


def _facts(folder: RunFolder) -> dict[str, Any]:
    metrics, summary = folder.read(METRICS), folder.summary()
    return {
        "live": None if summary is not None else ask_status(folder),
        "summary": summary,
        "last_step": metrics[-1] if metrics else None,
        "last_evaluations": folder.read(EVALUATIONS)[-2:],
        "events": folder.read(EVENTS)[-LAST_EVENTS:],
    }


def _show_live(console: Console, live: dict[str, Any]) -> None:
    console.print(
        f"{live['name']}: {live['state']}, step {live['step']} of {live['num_steps']}, version {live['version']}, "
        f"{live['rollouts_per_second']:.1f} rollouts/s, {live['seconds']:.0f} s",
        markup=False,
        highlight=False,
    )
    console.print(_facts_table(live))
    if words := in_words(msgspec.convert(live["cost"], CostSummary)):
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    table = Table("role", "replica", "metrics")
    for actor in live["actors"]:
        table.add_row(actor["role"], actor["replica"], actor["address"])
    console.print(table)
    if live["queue"] is not None:
        _show_queue(console, live["queue"])


def _facts_table(live: dict[str, Any]) -> Table:
    """What a run that lives through deaths and changes is known by."""
    table = Table(show_header=False)
    alive = live.get("alive") or Counter(actor["role"] for actor in live["actors"])
    numbers = ", ".join(f"{role} {alive.get(role, 0)} of {wanted}" for role, wanted in live["wanted"].items())
    restarts = ", ".join(f"{part} {number}" for part, number in live["restarts"].items() if number) or "none"
    epoch = "none yet" if live["epoch"] is None else f"{live['epoch']}: {', '.join(live['receivers']) or 'no receivers'}"
    for name, value in (
        ("alive of wanted", numbers),
        ("lineage", live["lineage"]),
        ("queue incarnation", live["incarnation"]),
        ("broadcast epoch", epoch),
        ("last checkpoint", "none yet" if live["checkpoint"] is None else f"step {live['checkpoint']}"),
        ("restarts", restarts),
    ):
        table.add_row(name, "unknown" if value is None else str(value))
    return table


def _show_queue(console: Console, queue: dict[str, Any]) -> None:
    counts = queue["counts"]
    slots = ", ".join(f"{state} {number}" for state, number in counts["slots"].items())
    console.print(f"slots of {counts['capacity']}: {slots}", markup=False, highlight=False)
    dropped = ", ".join(f"{reason} {number}" for reason, number in counts["dropped"].items() if number) or "none"
    console.print(
        f"rollouts: accepted {counts['accepted']}, consumed {counts['consumed']}, held {counts['held']}, dropped {dropped}; "
        f"staleness at most {counts['staleness_max_seen']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    leases = Table("lease", "kind", "worker", "members", "age")
    for lease in queue["leases"][:MOST_LEASES]:
        leases.add_row(lease["id"], lease["kind"], lease["worker"], str(lease["members"]), f"{lease['age_s']:.0f} s")
    console.print(leases if queue["leases"] else "leases: none")
    if len(queue["leases"]) > MOST_LEASES:
        console.print(f"and {len(queue['leases']) - MOST_LEASES} more leases; --json has them all", highlight=False)


def _line(step: int, record: KeptRollout) -> str:
    versions = " ".join(f"{version}[{start}:{end}]" for version, start, end in record.versions)
    head = (
        f"step {step}  {record.id}  {record.kind}  reward {record.reward}  answer {record.answer!r}  versions {versions}  {record.num_tokens} tokens"
    )
    text = record.text.encode("utf-8", "backslashreplace").decode("utf-8").translate(CONTROLS)
    return f"{head}\n    " + text.replace("\n", "\n    ") + "\n"
