"""What the tests share: where the outside material lies, one Ray for the session, and a closing line that counts the skips."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Corpora and schemas that the project does not ship, in a folder `shared` beside the clone."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of outside material; the test is skipped, and counted, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"outside material is absent ({SHARED.name}/ beside the clone)")
    return SHARED


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for every test that needs it."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(f"skipped: {len(skipped)}")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {reason}")
