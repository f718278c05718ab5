"""However a driver ends, no process that it marked is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.run.orphan_guard import MARK, marked

pytestmark = pytest.mark.processes

DRIVER = """
import os, subprocess, sys, time
from actors.run import orphan_guard
guard = orphan_guard.start("{mark}")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
if {closes}:
    guard.close()
else:
    time.sleep(600)
"""
WITHIN_S = 20.0


def drive(mark: str, *, closes: bool) -> tuple["subprocess.Popen[str]", int]:
    script = DRIVER.format(mark=mark, closes=closes)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with driver.stdout as said:
        return driver, int(said.readline())


def ends(pid: int) -> bool:
    """Whether the process is gone, or waits to be reaped, within the time."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_driver_that_is_killed_leaves_no_marked_process() -> None:
    driver, child = drive("test-killed", closes=False)
    assert child in marked("test-killed")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert ends(child)
    assert not marked("test-killed")


TITLED = """
import os, subprocess, sys, time
from actors.run import orphan_guard
guard = orphan_guard.start("test-titled")
entitle = "import ray, time; ray._raylet.setproctitle('ray::Agent'); print('titled', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", entitle], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_process_that_takes_a_title_of_its_own_keeps_the_mark() -> None:
    driver = subprocess.Popen([sys.executable, "-c", TITLED], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with driver.stdout as said:
        child = int(said.readline())
    try:
        assert child in marked("test-titled")
        driver.kill()
        driver.wait()
        assert ends(child)
    finally:
        driver.kill()
        driver.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_guard_that_is_closed_ends_what_is_left_before_it_returns() -> None:
    driver, child = drive("test-closed", closes=True)
    assert driver.wait(WITHIN_S) == 0
    assert ends(child)


def test_processes_of_another_run_and_unmarked_ones_are_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "test-other"})
    try:
        driver, child = drive("test-mine", closes=True)
        assert driver.wait(WITHIN_S) == 0
        assert ends(child)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
