"""What a run has come to, beside what its processes hold: `facts.json`, and the copy of the run's history in a store elsewhere.

Owns the record of a run so far, its format number, and which files of the run folder are mirrored. Called by the controller (at checkpoints,
evaluations and the end) and by `actors.run.resume`. Where the run folder is the store, the files lie there once.
"""

from pathlib import Path

import msgspec

from rlvr.errors import UserError
from rlvr.store import Store, whole_file

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
EVALUATIONS = "evals.jsonl"
EVENTS = "events.jsonl"
FACTS = "facts.json"
LINES = (METRICS, EVALUATIONS, EVENTS)
"""Files that only grow, line by line."""
MIRROR = "history"
"""The folder of the copies in the store."""
FORMAT = 1
"""Of everything that a run keeps for a resume. Another number is another contract: it is refused."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of one role have taken so far."""

    process_seconds: float = 0.0
    gpu_seconds: float = 0.0


class NodeCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes of one part have cost so far."""

    usd: float = 0.0
    node_seconds: float = 0.0
    gpu_seconds: float = 0.0
    unpriced_seconds: float = 0.0
    """Node-seconds whose price nobody gave: they are not in `usd`."""

    def after(self, seconds: float, *, num_gpus: int, usd_per_hour: float | None) -> "NodeCost":
        """The same after one more node of the part has lived for so long."""
        return NodeCost(
            usd=self.usd + (usd_per_hour or 0.0) * seconds / 3600,
            node_seconds=self.node_seconds + seconds,
            gpu_seconds=self.gpu_seconds + num_gpus * seconds,
            unpriced_seconds=self.unpriced_seconds + (seconds if usd_per_hour is None else 0.0),
        )


class FactsSoFar(msgspec.Struct, frozen=True, kw_only=True):
    """facts.json: what a resumed run goes on from. Steps and counts that checkpoints and journal know better are informative here."""

    format: int = FORMAT
    name: str
    stopped: str | None = None
    """finished, interrupted or failed; None while the run goes on, or where it died."""
    steps: int = 0
    num_steps: int = 0
    versions_published: int = 0
    bytes_sent: int = 0
    pause_seconds_max: float = 0.0
    setup_seconds: float = 0.0
    training_seconds: float = 0.0
    total_seconds: float = 0.0
    """While a controller lived; the time between its death and the resume is nobody's."""
    resumes: int = 0
    restarts: dict[str, int] = {}
    """Parts that died or hung and were replaced, by part."""
    usage: dict[str, Usage] = {}
    """By role."""
    costs: dict[str, NodeCost] = {}
    """By what the nodes are for."""


def decode_facts(data: bytes | None, *, where: str) -> FactsSoFar:
    """Read facts.json. Raises UserError where there is none, for another format, and for one that is damaged."""
    if data is None:
        raise UserError(f"{where} has no {FACTS}: its run was made before runs could be resumed; start a new one from its checkpoint")
    try:
        found = msgspec.json.decode(data)["format"]
        if found != FORMAT:
            raise UserError(f"the run in {where} is of format {found}, this firesteel reads and writes format {FORMAT}: resume it with the other one")
        return msgspec.json.decode(data, type=FactsSoFar)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise UserError(f"{where}: {FACTS} cannot be read: {error}") from error


def read_history(store: Store, name: str, *, is_mirrored: bool) -> bytes | None:
    """One file of the history from where the store has it; None where it is not there."""
    try:
        return store.read(f"{MIRROR}/{name}" if is_mirrored else name)
    except FileNotFoundError:
        return None


def push_history(folder: Path, store: Store) -> None:
    """Copy what is new of the run folder's history into a store elsewhere. Each file is whole; facts.json, which makes the rest valid, is last."""
    known = {entry.name: entry.num_bytes for entry in store.list(MIRROR)}
    for name in (*LINES, CONFIG, FACTS):
        file, there = folder / name, f"{MIRROR}/{name}"
        if not file.is_file():
            continue
        data = file.read_bytes()
        if name in LINES:
            data = data[: data.rfind(b"\n") + 1]
            if known.get(there) == len(data):
                continue
        store.write(there, data)


def pull_history(store: Store, folder: Path) -> None:
    """Copy a run's history from a store elsewhere into a run folder, which is made where it is missing.

    A file of lines that begins with what the store has is newer, of the same run, and stays; any other is replaced.
    """
    for entry in store.list(MIRROR):
        name = entry.name.removeprefix(f"{MIRROR}/")
        data, file = store.read(entry.name), folder / name
        if name in LINES and file.is_file() and file.read_bytes().startswith(data):
            continue
        with whole_file(file) as part:
            part.write_bytes(data)
