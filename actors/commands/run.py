"""`firesteel run`: from a run file to an exit code.

Owns the order in which a run can be refused: configuration, what is there already, model and problems, Ray, lock and folder; nothing is written
before all of them have passed.
"""

import asyncio
import ipaddress
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
from rich.console import Console

from actors import cluster
from actors.cluster import Cluster
from actors.fleet.controller import FINISHED, INTERRUPTED, Controller
from actors.prepare import check_sandbox, prepare
from actors.run import orphan_guard
from actors.run.cost import in_words
from actors.run.final_table import final_table
from actors.run.folder import EVALUATIONS, RunFolder
from actors.run.place import check_can_create, store_root
from actors.run.progress import RunProgress
from actors.run.resume import Finished, Mode, OpenRun, Resume, Start, decide, open_run
from actors.run.service import check_port
from actors.run.store_actor import StoreAddress
from actors.run.summary import Summary
from actors.signals import exit_on_sigterm
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config

logger = logging.getLogger(__name__)


def run(file: Path, overrides: Sequence[str], run_dir: Path | None, *, resume: Mode | None = None) -> int:
    """Train as `file` says. Returns the exit code; raises UserError where the run is refused."""
    config = load_config(file, overrides)
    console = Console(stderr=True)
    config_rules.check(config)
    decided = decide(resume, config, run_dir, say=lambda sentence: console.print(sentence, markup=False, soft_wrap=True))
    if isinstance(decided, Finished):
        Console().print(decided.sentence, markup=False, highlight=False, soft_wrap=True)
        return 0
    summary, folder, interrupted_code = train(config, decided, console=console)
    if summary.error is not None:
        console.print(f"firesteel: the run failed: {summary.error}", markup=False, soft_wrap=True)
    table = final_table(folder.read(EVALUATIONS), config.evaluation.report)
    if table is not None:
        Console().print(table)
    if words := in_words(summary.cost):
        Console().print(words, markup=False, highlight=False, soft_wrap=True)
    Console().print(f"{summary.stopped}: {folder.path}", markup=False, highlight=False, soft_wrap=True)
    return {FINISHED: 0, INTERRUPTED: interrupted_code}.get(summary.stopped, 1)


def train(config: Config, decided: Start | Resume, *, console: Console) -> tuple[Summary, RunFolder, int]:
    """One whole run, or its continuation, in this process. Raises UserError where it is refused; any later end is in the summary.

    Returns the summary, the run folder, and the exit code of the signal that interrupted it, if one did.
    """
    with exit_on_sigterm():
        if isinstance(decided, Start):
            check_can_create(decided.run_dir, config)
        check_port(config.metrics.bind, config.metrics.port)
        plan = prepare(config)
        check_sandbox(config)
    guard = None if os.environ.get("RAY_ADDRESS") else orphan_guard.start(uuid.uuid4().hex)
    try:
        with exit_on_sigterm():
            joined = cluster.connect(config, namespace=f"firesteel-{config.run.name}-{os.getpid()}")
        try:
            warn_of_loopback(config, joined)
            opened = open_run(decided, config)
            console.print(f"run folder {opened.folder.path}", markup=False, highlight=False, soft_wrap=True)
            with RunProgress(console, num_steps=config.run.num_steps) as progress:
                controller = Controller(config, plan, cluster=joined, run=opened, address=store_address(config, opened), progress=progress)
                summary = asyncio.run(controller.run())
            opened.release()
        finally:
            ray.shutdown()
    finally:
        if guard is not None:
            guard.close()
    return summary, opened.folder, controller.signals.exit_code


def store_address(config: Config, run: OpenRun) -> StoreAddress:
    """Where the actors of this run find its store."""
    where = store_root(config, run.folder.path)
    return StoreAddress(
        kind="url" if "://" in where else "folder",
        where=where,
        is_shared=bool(config.run.store),
        node_id=ray.get_runtime_context().get_node_id(),
    )


def warn_of_loopback(config: Config, joined: Cluster) -> None:
    """A Ray that was joined may have other nodes, whose metrics nobody finds behind a loopback address."""
    if not joined.is_ours and _is_loopback(config.metrics.bind):
        logger.warning(
            "metrics.bind = %s: nobody finds the metrics of actors on other nodes of the Ray that was joined; set metrics.bind = 0.0.0.0",
            config.metrics.bind,
        )


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
