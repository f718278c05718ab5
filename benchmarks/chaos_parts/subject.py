"""The run that is struck: `firesteel run` as a user starts it, resumed when its driver was killed, stopped by SIGTERM at the end.

Owns the command line, the child process and what it said. Called by `benchmarks.chaos`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.chaos_parts.processes import Kin
from benchmarks.record import ROOT

RUN_NAME = "chaos"
REFUSED = 2
RETRY_S = 3.0
STOP_S = 150.0
"""run.grace_s and the end of every process fit in."""
SETTINGS = (
    "run.num_steps=1000000",
    "run.checkpoint_every_steps=5",
    "run.eval_every_steps=50",
    "run.grace_s=60",
    "run.max_restarts=1000",  # what is killed again and again on purpose is no crash loop
    "generators.count=2",
    "verifiers.count=2",
    "learner.ranks=2",
    "learner.keep=2",
    "queue.silence_s=8",
    "queue.lease_s=60",
    "queue.keep_segments=true",
    "weights.deadline_s=8",
)
"""What makes a run of two generators, two verifiers and two learner ranks out of any run file, with deadlines that a short test can wait for."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


class Subject:
    """One run in its folder, through as many drivers as it takes."""

    def __init__(self, run_file: Path, run_dir: Path, *, settings: tuple[str, ...], temporary: Path, kin: Kin) -> None:
        """temporary: a short path, where the run's processes leave their sockets and Ray its session."""
        self.run_dir = run_dir
        self.starts = 0
        self.refusals = 0
        self._words = [str(run_file), "--run-dir", str(run_dir), *(word for one in settings for word in ("--set", one))]
        self._temporary = temporary
        self._kin = kin
        self._driver: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._driver is not None
        return self._driver.pid

    @property
    def log(self) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    def start(self, *resume: str) -> None:
        """Start a driver; resume: nothing, or `--resume` and its word."""
        self.starts += 1
        firesteel = Path(sys.executable).with_name("firesteel")
        with self.log.open("ab") as log:
            self._driver = subprocess.Popen(
                [str(firesteel), "run", *self._words, *resume],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT | {"TMPDIR": str(self._temporary)},
                process_group=0,
            )
        self._kin.adopt(self._driver.pid)

    def resume(self, word: str, *, within_s: float) -> bool:
        """Start again with `--resume WORD`, as often as the run is refused because its last owner may still live. False where it stays refused."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            self.start("--resume", word)
            if not self._is_refused(ends):
                return True
            self.refusals += 1
            time.sleep(RETRY_S)
        return False

    def exit_code(self) -> int | None:
        """None while the driver lives."""
        assert self._driver is not None
        return self._driver.poll()

    def await_exit(self, within_s: float) -> int | None:
        assert self._driver is not None
        try:
            return self._driver.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int | None:
        """SIGTERM; the exit code, None where it does not end in time (it is killed then)."""
        assert self._driver is not None
        if self._driver.poll() is None:
            self._driver.send_signal(signal.SIGTERM)
        code = self.await_exit(STOP_S)
        if code is None:
            self._driver.kill()
            self._driver.wait()
        return code

    def last_words(self, num_lines: int = 15) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-num_lines:] if self.log.is_file() else []

    def _is_refused(self, ends: float) -> bool:
        """Wait until the new driver has the run (it says where it is reached), or has been refused it."""
        address = self.run_dir / "run.json"
        while time.monotonic() < ends and self.exit_code() is None:
            if address.is_file() and json.loads(address.read_bytes())["pid"] == self.pid:
                return False
            time.sleep(0.1)
        return self.exit_code() == REFUSED
