"""`firesteel verify`: a file of cases in, a file of verdicts out, same order, whatever the cases hold.

Owns the two formats. Called by the command line. A malformed file is refused before anything is judged or written; a gold that does not parse is
that row's fault of ours (`sandbox`), named once, and the run goes on.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import Progress

from rlvr.config import Config, Extract, Grader, RewardConfig
from rlvr.errors import UserError
from rlvr.records import Unverified, Verdict
from verifier.verify import Verifier

_CHUNK_ROWS = 512
_CHUNK_BYTES = 16 << 20
_FIELDS = ("id", "response", "gold")
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


class CasesReport(msgspec.Struct, frozen=True):
    """How many rows, and how many of each kind."""

    num_rows: int
    kinds: dict[str, int]


def verify_file(
    cases: Path, out: Path, *, config: Config | None = None, extract: Extract = "all", grader: Grader = "firesteel", workers: int | None = None
) -> CasesReport:
    """Judge every row of `cases` into `out` with a verifier of its own. Raises UserError, with nothing written, when a file cannot be used."""
    num_rows = check_rows(cases)
    verifiers = (config or Config()).verifiers
    verifiers = msgspec.structs.replace(verifiers, workers=workers or verifiers.workers)
    with _written_whole(out) as target, Verifier(verifiers, RewardConfig(extract=extract, grader=grader)) as verifier:
        return judge_rows(verifier, cases, target, num_rows=num_rows)


def judge_rows(verifier: Verifier, cases: Path, target: IO[str], *, num_rows: int) -> CasesReport:
    """Judge the rows of a checked file with a running verifier, and write their verdicts in the same order."""
    kinds: dict[str, int] = {}
    with _progress(num_rows) as advance:
        for chunk in _chunks(cases):
            _name_bad_golds(verifier, chunk)
            for verdict in verifier.verify_many(chunk):
                target.write(_line_of(verdict))
                kinds[verdict.kind.value] = kinds.get(verdict.kind.value, 0) + 1
            advance(len(chunk))
    return CasesReport(num_rows, kinds)


def check_rows(cases: Path) -> int:
    """How many rows there are. Raises UserError that names the first malformed line."""
    try:
        with cases.open("rb") as lines:
            rows = sum(1 for number, line in enumerate(lines, 1) if _read_row(cases, number, line) is not None)
    except OSError as cause:
        raise UserError(f"{cases}: {cause.strerror}") from cause
    return rows


def _read_row(cases: Path, number: int, line: bytes) -> Unverified | None:
    """One case; None for a blank line. Python's own decoder, because the files hold lone surrogates, which stricter ones refuse."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise UserError(f"{cases}, line {number}: not JSON ({cause})") from cause
    if not isinstance(row, dict):
        raise UserError(f"{cases}, line {number}: a case is an object with {', '.join(_FIELDS)}, got {_JSON_NAMES[type(row)]}")
    for field in _FIELDS:
        if field not in row:
            raise UserError(f"{cases}, line {number}: {field} is missing; a case has {', '.join(_FIELDS)}")
        if not isinstance(row[field], str):
            raise UserError(f"{cases}, line {number}: {field} has to be a string, got {_JSON_NAMES[type(row[field])]}")
    return Unverified(rollout_id=row["id"], lease_id="", problem_id="", text=row["response"], gold=row["gold"])


def _chunks(cases: Path) -> Iterator[list[Unverified]]:
    """Rows in bunches that stay small in memory, however long a row is."""
    chunk: list[Unverified] = []
    size = 0
    with cases.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            row = _read_row(cases, number, line)
            if row is None:
                continue
            chunk.append(row)
            size += len(line)
            if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _name_bad_golds(verifier: Verifier, chunk: list[Unverified]) -> None:
    for case in chunk:
        why = verifier.check_gold(case.gold)
        if why is not None:
            sys.stderr.write(f"{json.dumps(case.rollout_id)}: {why}\n")


def _line_of(verdict: Verdict) -> str:
    row = {
        "id": verdict.rollout_id,
        "kind": str(verdict.kind),
        "reward": verdict.reward,
        "seconds": round(verdict.seconds, 6),
        "answer": verdict.answer,
    }
    return json.dumps(row) + "\n"


@contextlib.contextmanager
def _written_whole(out: Path) -> Iterator[IO[str]]:
    """A file beside `out` that takes its place when all rows are in it, and leaves nothing behind when they are not."""
    try:
        target = tempfile.NamedTemporaryFile("w", encoding="ascii", dir=out.parent, prefix=f".{out.name}.", delete=False)  # noqa: SIM115 - renamed below
    except OSError as cause:
        raise UserError(f"{out}: {cause.strerror}") from cause
    try:
        with target:
            yield target
        os.chmod(target.name, 0o644)
        os.replace(target.name, out)
    except BaseException as cause:
        os.unlink(target.name)
        if isinstance(cause, OSError):
            raise UserError(f"{out}: {cause.strerror}") from cause
        raise


@contextlib.contextmanager
def _progress(num_rows: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where somebody watches, silence elsewhere."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("verify", total=num_rows)
        yield lambda done: bar.advance(task, done)
