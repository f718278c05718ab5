"""How a command speaks with a live run that it knows by its folder alone.

Owns the HTTP calls and the sentence about a run that does not answer. Called by `status`, `stop` and `scale`; needs neither Ray nor torch.
A dead run's port may be another run's by now: that one is told by its start and its token, and counts as silence of this one.
"""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from actors.run.folder import CONFIG, RunFolder
from actors.run.lock import LockReading, read_lock
from actors.run.place import open_run_store
from rlvr.config_file import load_config
from rlvr.errors import FiresteelError, UserError

ANSWER_S = 10.0
NOT_THIS_RUN = (401, 404, 405, 501)
"""Whoever listens there does not know this run's token, or not even such a request."""
SILENT = (OSError, ValueError, http.client.HTTPException)
"""Nobody answers, or somebody who speaks otherwise; a URLError is an OSError."""


def ask_status(folder: RunFolder) -> dict[str, Any] | None:
    """What the run's controller says of it; None where none answers."""
    address = folder.address()
    if address is None:
        return None
    try:
        with _opened(f"{address.service}/status") as answer:
            live = json.load(answer)
            return live if isinstance(live, dict) and live.get("started") == address.started else None
    except SILENT:
        return None


def steer(folder: RunFolder, verb: str, body: dict[str, int]) -> dict[str, Any]:
    """Ask the controller to `stop` or `scale`; returns what it did. Raises UserError with its refusal, and where the run is over or silent."""
    summary = folder.summary()
    if summary is not None:
        raise UserError(f"{folder.path}: the run is over: {summary['stopped']} after {summary['steps']} steps")
    address = folder.address()
    if address is None:
        raise UserError(silence(folder))
    request = urllib.request.Request(
        f"{address.service}/{verb}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {address.token}", "Content-Type": "application/json"},
    )
    try:
        with _opened(request) as answer:
            done: dict[str, Any] = json.load(answer)
            return done
    except urllib.error.HTTPError as error:
        with error:
            if error.code in NOT_THIS_RUN:
                raise UserError(silence(folder)) from error
            raise UserError(f"{folder.path}: {error.read().decode(errors='replace')}") from error
    except SILENT as error:
        raise UserError(silence(folder)) from error


def silence(folder: RunFolder) -> str:
    """The sentence about a run that left no summary and does not answer: since when, and what to do."""
    owner = _owner(folder)
    known = f"{owner.sentence}; " if owner is not None and owner.lock is not None else ""
    return f"{folder.path}: the run does not answer: {known}`firesteel run RUN.toml --run-dir {folder.path} --resume must` goes on with one that died"


def _opened(request: str | urllib.request.Request) -> Any:
    """Straight to the controller: a proxy of the environment does not know the run's address."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=ANSWER_S)


def _owner(folder: RunFolder) -> LockReading | None:
    """Of the run's store, as far as this host reaches it."""
    try:
        return read_lock(open_run_store(load_config(folder.path / CONFIG), folder.path))
    except FiresteelError:
        return None
