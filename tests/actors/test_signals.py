"""Which signal ends a run how."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

RUN = """
import asyncio, os, signal, time
from actors.signals import Signals
async def run():
    signals = Signals()
    with signals.caught():
        {before}
        print("ready", flush=True)
        await signals.wait()
        {after}
    raise SystemExit(signals.exit_code)
asyncio.run(run())
"""


def ends_with(number: int, *, before: str = "pass", after: str = "pass", times: int = 1) -> int:
    process = subprocess.Popen([sys.executable, "-c", RUN.format(before=before, after=after)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        for _ in range(times):
            process.stdout.readline()
            os.kill(process.pid, number)
        return process.wait(30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_with_its_own_code(number: int, code: int) -> None:
    assert ends_with(number) == code


def test_a_run_that_was_told_to_stop_has_done_as_it_was_told() -> None:
    code = "from actors.signals import Signals\nsignals = Signals()\nsignals.stop()\nraise SystemExit(signals.exit_code)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_second_signal_ends_it_at_once() -> None:
    assert ends_with(signal.SIGTERM, after="print('again', flush=True); await asyncio.sleep(600)", times=2) == 143


def test_a_signal_after_a_polite_request_leaves_the_last_checkpoint_its_time() -> None:
    asked_and_waiting = "print('saved', flush=True); await asyncio.sleep(0.2); raise SystemExit(7)"
    assert ends_with(signal.SIGTERM, before="signals.stop()", after=asked_and_waiting) == 7


STARTING = """
import signal, time
from actors.signals import exit_on_sigterm
with exit_on_sigterm():
    {handler}
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("handler", ["pass", "import sys; signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"])
def test_sigterm_in_the_start_exits_with_143_whoever_handles_it(handler: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTING.format(handler=handler)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(30) == 143
