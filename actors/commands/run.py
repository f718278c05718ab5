"""`firesteel run`: from a run file to an exit code.

Owns the order in which a run can be refused: configuration, model and problems, folder, Ray; nothing is written before all of them have passed.
"""

import asyncio
import ipaddress
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import ray
from rich.console import Console

from actors import cluster, run_folder
from actors.cluster import Cluster
from actors.controller import FINISHED, INTERRUPTED, Controller
from actors.final_table import final_table
from actors.prepare import check_sandbox, prepare
from actors.progress import RunProgress
from actors.run_folder import EVALUATIONS, RunFolder
from actors.service import check_port
from actors.summary import Summary
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config

logger = logging.getLogger(__name__)

EXIT_CODES = {FINISHED: 0, INTERRUPTED: 130}


def run(file: Path, overrides: Sequence[str], run_dir: Path | None) -> int:
    """Train as `file` says. Returns the exit code; raises UserError where the run is refused."""
    config = load_config(file, overrides)
    summary, folder = train(config, run_dir or run_folder.default_path(config.run.name), console=Console(stderr=True))
    if summary.error is not None:
        Console(stderr=True).print(f"firesteel: the run failed: {summary.error}", markup=False, soft_wrap=True)
    table = final_table(folder.read(EVALUATIONS), config.evaluation.report)
    if table is not None:
        Console().print(table)
    Console().print(f"{summary.stopped}: {folder.path}", markup=False, highlight=False, soft_wrap=True)
    return EXIT_CODES.get(summary.stopped, 1)


def train(config: Config, path: Path, *, console: Console) -> tuple[Summary, RunFolder]:
    """One whole run in this process. Raises UserError where it is refused; any later end is in the summary."""
    config_rules.check(config)
    run_folder.check_can_create(path, config)
    check_port(config.metrics.bind, config.metrics.port)
    plan = prepare(config)
    check_sandbox(config)
    joined = cluster.connect(config, namespace=f"firesteel-{config.run.name}-{os.getpid()}")
    try:
        warn_of_loopback(config, joined)
        folder = RunFolder.create(path, config)
        console.print(f"run folder {path}", markup=False, highlight=False, soft_wrap=True)
        with RunProgress(console, num_steps=config.run.num_steps) as progress:
            controller = Controller(config, plan, cluster=joined, folder=folder, progress=progress)
            summary = asyncio.run(controller.run())
    finally:
        ray.shutdown()
    return summary, folder


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
