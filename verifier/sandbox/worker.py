"""The hostile side of the pipe: one locked process that answers one question at a time and never sees source text.

Owns the CPU clock of a request. Started by `zygote` right after a fork, with everything imported; talks only over descriptor `CHANNEL`, and ends
when that closes. What it prints or raises goes nowhere.
"""

import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from types import FrameType

import msgspec

from verifier.sandbox import lock
from verifier.sandbox.protocol import (
    HEAD_BYTES,
    Hello,
    Outcome,
    ProtocolError,
    Question,
    Reply,
    Request,
    body_bytes,
    pack_hello,
    pack_reply,
    unpack_request,
)

Answerer = Callable[[bytes, bytes], tuple[Outcome, str, float]]
"""What a question is answered with: outcome, stage, value."""

_REPEAT_S = 0.02  # a raise that the rules swallow comes again
_HARD_FACTOR = 1.25  # of the budget in user time: kills a C call that lets no Python run


class BudgetSpentError(BaseException):
    """The CPU budget is gone; not an Exception, so that no rule catches it."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker inherits from its zygote."""

    limits: lock.Limits
    rules: int
    answerers: dict[Question, Answerer]
    reseed: Callable[[], None]


def run(channel: int, setting: Setting, *, parent: int) -> None:
    """Lock this freshly forked process and serve until the channel closes. Never returns."""
    try:
        _leave_the_world(channel)
        errnos = lock.put_on(setting.limits, parent=parent)
        _write_all(pack_hello(Hello(os.getpid(), errnos)))
        clock = _CpuClock()
        while (request := _next_request()) is not None:
            _write_all(pack_reply(_answer(request, setting, clock)))
    finally:
        os._exit(0)


def _leave_the_world(channel: int) -> None:
    os.setsid()
    lock.keep_only(channel)
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    sys.meta_path[:] = [_NoMoreImports()]
    warnings.simplefilter("ignore")  # a warning would quote source lines, which needs a file
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


class _NoMoreImports:
    """Fails an import before it opens a file, which would cost the worker its life."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        raise LateImportError(f"{name} was not imported before the lock")


class LateImportError(ImportError):
    """The rules want a module that no worker can load any more."""


def _answer(request: Request, setting: Setting, clock: "_CpuClock") -> Reply:
    if request.rules != setting.rules or request.question not in setting.answerers:
        raise ProtocolError("a request for other rules")
    answerer = setting.answerers[request.question]
    random.seed(0)
    setting.reseed()
    started = time.process_time()
    outcome, stage, value = clock.within(request.budget_us / 1e6, lambda: answerer(request.first, request.second))
    return Reply(request.sequence, outcome, round((time.process_time() - started) * 1e6), stage, value)


class _CpuClock:
    """Raises in the work once its CPU budget is spent, and lets the kernel end the process where Python does not get to run."""

    def __init__(self) -> None:
        self._is_armed = False
        signal.signal(signal.SIGPROF, self._ring)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)

    def within(self, budget_s: float, work: Callable[[], tuple[Outcome, str, float]]) -> tuple[Outcome, str, float]:
        try:
            try:
                self._is_armed = True
                signal.setitimer(signal.ITIMER_VIRTUAL, budget_s * _HARD_FACTOR)
                signal.setitimer(signal.ITIMER_PROF, budget_s, _REPEAT_S)
                return work()
            finally:
                self._is_armed = False
                signal.setitimer(signal.ITIMER_PROF, 0.0)
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        except BudgetSpentError:
            return Outcome.BUDGET, "budget", 0.0
        except (MemoryError, RecursionError):
            return Outcome.MEMORY, "memory", 0.0
        except LateImportError:
            return Outcome.IMPORT, "import", 0.0
        except Exception:  # noqa: BLE001 - whatever the rules raise about one answer is that answer's outcome
            return Outcome.ERROR, "error", 0.0

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            raise BudgetSpentError


def _next_request() -> Request | None:
    head = _read_exactly(HEAD_BYTES)
    if head is None:
        return None
    body = _read_exactly(body_bytes(head))
    return None if body is None else unpack_request(body)


def _read_exactly(size: int) -> bytes | None:
    """`size` bytes from the channel; None when it closed."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(lock.CHANNEL, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(lock.CHANNEL, data) :]
