"""The trusted side of one zygote: start it by exec, ask it for workers, bury them.

Owns the zygote process and its control socket. Called by `pool`, always from the pool's one thread, because the kernel ties the zygote's life to
the thread that starts it.
"""

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys

import msgspec

from rlvr.errors import SandboxError, UserError
from verifier.sandbox import zygote

_START_S = 120.0
_COMMAND_S = 20.0
_END_S = 5.0
_LAST_MOMENT_MS = 50
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[4]); "
    "from verifier.sandbox.zygote import main; main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
)


class ForkError(SandboxError):
    """The zygote lives, but the system gives it no further process."""


class Burial(msgspec.Struct, frozen=True):
    """What the kernel says of a dead worker: the signal that ended it (0 = none but ours), its CPU seconds, its largest resident size."""

    signal: int
    cpu_s: float
    peak_mib: float


class Zygote:
    """A running zygote. Raises UserError when the environment cannot hold one, SandboxError when it does not come up."""

    def __init__(self, setup: zygote.Setup) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = _start(theirs, setup)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        self._control.settimeout(_COMMAND_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._control.fileno()

    def fork_worker(self) -> tuple[int, socket.socket]:
        """A fresh worker's pid and our end of its socket. Raises ForkError when it cannot fork, SandboxError or OSError when it is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]).tobytes())]
            try:
                self._control.sendmsg([zygote.FORK], passed)
                (pid,) = zygote.PID.unpack(self._answer(zygote.PID.size))
            except (OSError, SandboxError):
                ours.close()
                raise
        if pid <= 0:
            ours.close()
            raise ForkError(f"the sandbox cannot fork a worker: {os.strerror(-pid)}")
        ours.setblocking(False)
        return pid, ours

    def bury(self, pid: int, *, is_dying: bool = False) -> Burial:
        """Kill worker `pid`, wait until it is gone, say how it ended. Its pid cannot be another's before that: only the zygote reaps.

        is_dying: its socket closed, so it gets a moment to end by itself, and its end tells of what.
        """
        ended_alone = is_dying and _ends_within(pid, _LAST_MOMENT_MS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._control.send(zygote.REAP + zygote.PID.pack(pid))
        status, cpu_us, peak_kib = zygote.REAPED.unpack(self._answer(zygote.REAPED.size))
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        is_ours = ended_by == signal.SIGKILL and not ended_alone
        return Burial(0 if is_ours else ended_by, cpu_us / 1e6, peak_kib / 1024)

    def close(self) -> None:
        """End the zygote; its workers end with it."""
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _answer(self, size: int) -> bytes:
        answer = self._control.recv(size)
        if len(answer) != size:
            raise SandboxError("the sandbox's zygote is gone")
        return answer

    def _wait_until_ready(self) -> None:
        self._control.settimeout(_START_S)
        message = self._control.recv(zygote.MAX_MESSAGE_BYTES)
        said = message[1:].decode(errors="replace")
        if message[:1] == zygote.REFUSED:
            raise UserError(f"the verifier's sandbox does not start: {said}")
        if message[:1] == zygote.BROKEN:
            raise SandboxError(f"the verifier's sandbox does not start: {said}")
        if message[:1] != zygote.READY:
            raise SandboxError(f"the verifier's sandbox ended at its start: {self._last_words()}")

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read(4096).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _ends_within(pid: int, milliseconds: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ending = select.poll()
        ending.register(handle, select.POLLIN)
        return bool(ending.poll(milliseconds))
    finally:
        os.close(handle)


def _start(control: socket.socket, setup: zygote.Setup) -> "subprocess.Popen[bytes]":
    if not sys.executable:
        raise SandboxError("this Python does not know its own executable, so the sandbox cannot start")
    paths = json.dumps([os.path.abspath(path) for path in sys.path])  # so that both load the same packages
    arguments = [str(control.fileno()), msgspec.json.encode(setup).decode(), str(os.getpid()), paths]
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-c", _BOOT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(control.fileno(),),
        env=_clean_environment(),
        cwd="/",
        start_new_session=True,
    )


def _clean_environment() -> dict[str, str]:
    """Nothing of ours but where shared libraries are; one thread, one malloc arena, one hash order."""
    fixed = {
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "SYMPY_GROUND_TYPES": "python",
        "SYMPY_USE_CACHE": "yes",
    }
    return fixed | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
