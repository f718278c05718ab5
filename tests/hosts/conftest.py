"""Hosts for these tests, the modules of tests/runs that start whole runs, and what the manifests say, from tests/deploy."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

from hosts import Network, why_not


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Network]]:
    """Makes a network whose hosts do not see each other's runs; skipped aloud where this machine cannot."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"several hosts on one machine: {reason}")
    with ExitStack() as networks:

        def make() -> Network:
            folder = tmp_path_factory.mktemp("net")
            return networks.enter_context(Network(folder, hidden=folder / "runs"))

        yield make
