"""Leaves no process of a run behind, however its driver ends.

A Ray that a run started for itself loses its driver to SIGKILL and leaves agents of its own running for ever. So a small process of its own session
waits for the driver's end on a pipe, and then kills whatever still carries the run's mark in its environment. Only processes that the run itself has
started inherit the mark. Imports next to nothing; a Ray that was joined is not ours to clean.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from actors.engine import sockets

MARK = "FIRESTEEL_RUN_MARK"
KEEPS_MARK = "SPT_NOENV"
"""Ray and vLLM write the titles of their processes over the environment, and the mark with it, where this is not set."""
PATIENCE_S = 3.0
"""For what ends by itself when the driver does."""
ROUNDS = 50


class Guard:
    """A guard that waits. It acts when this is closed, or when this process ends."""

    def __init__(self, pipe: int, process: "subprocess.Popen[bytes]") -> None:
        self._pipe = pipe
        self._process = process

    def close(self) -> None:
        """End what the run has left, now; returns when nothing is left."""
        os.close(self._pipe)
        self._process.wait()
        os.environ.pop(MARK, None)


def start(mark: str) -> Guard:
    """Mark this process's future children, and guard them."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "actors.run.orphan_guard", str(ours), mark, str(os.getpid())]
    environment = {name: value for name, value in os.environ.items() if name != MARK}  # the guard itself is not marked
    process = subprocess.Popen(command, env=environment, pass_fds=(ours,), start_new_session=True, stdin=subprocess.DEVNULL)
    os.close(ours)
    os.environ |= {MARK: mark, KEEPS_MARK: "1"}
    return Guard(theirs, process)  # the one writing end, which no child inherits: it closes with this process


def marked(mark: str) -> list[int]:
    """The living processes that carry the mark."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def guard(pipe: int, mark: str, driver: int) -> None:
    """Wait for the driver's end, then end what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the driver, which needs the guard most then
    while os.read(pipe, 1):
        pass
    try:
        _end_what_is_left(mark, driver)
    finally:
        sockets.sweep()


def _end_what_is_left(mark: str, driver: int) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in marked(mark) if pid not in (driver, os.getpid())]) and time.monotonic() < ends_at:
        time.sleep(0.1)
    for _ in range(ROUNDS):
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
        left = [pid for pid in marked(mark) if pid not in (driver, os.getpid())]


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
