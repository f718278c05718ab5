"""`firesteel verify`: judge a file of answers in the sandbox.

Owns the checks of the arguments; the work is `verifier.cases`. Needs neither Ray nor torch.
"""

import typing
from pathlib import Path

from rlvr.config import Extract, Grader
from rlvr.errors import UserError
from verifier.cases import verify_file


def verify(cases: Path, out: Path, *, extract: str, grader: str, workers: int) -> None:
    """Judge every case of `cases`; nothing is written where a line is malformed. Raises UserError."""
    for option, given, known in (("--extract", extract, typing.get_args(Extract)), ("--grader", grader, typing.get_args(Grader))):
        if given not in known:
            raise UserError(f"{option} {given}: use one of {', '.join(known)}")
    verify_file(cases, out, extract=typing.cast(Extract, extract), grader=typing.cast(Grader, grader), workers=workers)
