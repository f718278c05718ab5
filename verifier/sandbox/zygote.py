"""The process that workers are forked from: sympy imported and warm, one thread, no model text ever.

Owns the imports and the forks. Started by exec from `launch` with a clean environment; takes two commands over its control socket: fork a worker
on the socket that comes along, and reap a worker that is dead or dying. Ends when the socket closes or the thread that started it does.
"""

import array
import gc
import importlib
import importlib.util
import os
import pkgutil
import re
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from typing import Any

import msgspec

from verifier.sandbox import lock, worker
from verifier.sandbox.protocol import Outcome, Question, rules_number

FORK, REAP = b"F", b"R"
READY, REFUSED, BROKEN = b"Y", b"U", b"B"
PID = struct.Struct("<i")
REAPED = struct.Struct("<iQQ")  # wait status, CPU in µs, largest resident size in KiB
MAX_MESSAGE_BYTES = 4096

_SYMPY_PACKAGES = ("core", "functions", "assumptions", "ntheory", "sets", "concrete", "polys", "logic", "matrices", "calculus", "solvers", "discrete")
_NOT_IMPORTED = re.compile(r"\.(tests|benchmarks|trace|compatibility)(\.|$)")  # trace loads numpy
_FAST_BIGNUMS = ("gmpy2", "flint")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the verifier asks of a zygote. reward: `module:function` of a reward of the user, which is loaded instead of sympy; empty = the rules."""

    limits: lock.Limits
    reward: str = ""


def main(control_fd: int, setup_json: str, parent: int) -> None:
    """Prepare, say ready or why not, then serve until the control socket closes."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.die_with(parent)
    setup = msgspec.json.decode(setup_json, type=Setup)
    try:
        setting = _prepare(setup)
    except _RefusedError as refusal:
        control.send(REFUSED + str(refusal).encode()[: MAX_MESSAGE_BYTES - 1])
        return
    except Exception as cause:  # noqa: BLE001 - reported to the parent, which raises
        control.send(BROKEN + f"{type(cause).__name__}: {cause}".encode()[: MAX_MESSAGE_BYTES - 1])
        return
    gc.collect()
    gc.freeze()  # pages of what is imported stay shared after the fork
    control.send(READY)
    _serve(control, setting)


class _RefusedError(Exception):
    """The environment cannot hold a sandbox; the user can change that."""


def _prepare(setup: Setup) -> worker.Setting:
    for module in _FAST_BIGNUMS:
        if importlib.util.find_spec(module) is not None:
            raise _RefusedError(f"{module} is installed in {sys.prefix}: sympy would compute powers with it that nothing can interrupt; uninstall it")
    setting = _user_setting(setup) if setup.reward else _rules_setting(setup)
    if (num_threads := len(os.listdir("/proc/self/task"))) > 1:
        raise _RefusedError(f"what the sandbox imports started {num_threads - 1} threads; a process with threads cannot be forked safely")
    return setting


def _rules_setting(setup: Setup) -> worker.Setting:
    from sympy.core import random as sympy_random

    from verifier import algebra
    from verifier.compare import RULES_VERSION
    from verifier.nodes import decode

    outcomes = {kind: Outcome[kind.upper()] for kind in ("correct", "wrong", "no_answer", "undecided")}

    def decide(answer: bytes, gold: bytes) -> tuple[Outcome, str, float]:
        decision = algebra.decide(decode(answer), decode(gold))
        return outcomes[decision.kind], decision.stage, 0.0

    algebra.warm_up()
    _import_what_sympy_loads_late()
    return worker.Setting(
        limits=setup.limits,
        rules=rules_number(RULES_VERSION),
        answerers={Question.DECIDE: decide},
        reseed=lambda: sympy_random.seed(0),
    )


def _import_what_sympy_loads_late() -> None:
    """sympy imports inside its functions; what is not here before the lock cannot be had after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in _SYMPY_PACKAGES:
            folder = importlib.import_module(f"sympy.{package}")
            for module in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}."):
                if not _NOT_IMPORTED.search(module.name):
                    importlib.import_module(module.name)


def _user_setting(setup: Setup) -> worker.Setting:
    from verifier.rewards import Graded

    decoder = msgspec.msgpack.Decoder(Graded)
    module, _, attributes = setup.reward.partition(":")
    reward: Callable[[Graded], Any] = importlib.import_module(module)  # type: ignore[assignment]
    for name in attributes.split("."):
        reward = getattr(reward, name)

    def judge(record: bytes, _: bytes) -> tuple[Outcome, str, float]:
        return Outcome.REWARD, "reward", float(reward(decoder.decode(record)))

    return worker.Setting(limits=setup.limits, rules=rules_number(""), answerers={Question.REWARD: judge}, reseed=lambda: None)


def _serve(control: socket.socket, setting: worker.Setting) -> None:
    own_pid = os.getpid()
    while True:
        message, descriptors = _receive(control)
        if message[:1] == FORK and len(descriptors) == 1:
            control.send(PID.pack(_fork(descriptors[0], setting, own_pid)))
        elif message[:1] == REAP and len(message) == 1 + PID.size:
            control.send(_reap(*PID.unpack(message[1:])))
        else:
            return


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    message, ancillary, _, _ = control.recvmsg(64, socket.CMSG_SPACE(array.array("i").itemsize))
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data)
    return message, list(descriptors)


def _fork(channel: int, setting: worker.Setting, own_pid: int) -> int:
    """The pid of a new worker, or minus the errno of the fork that failed."""
    try:
        pid = os.fork()
    except OSError as cause:
        pid = -(cause.errno or 1)
    if pid == 0:
        worker.run(channel, setting, parent=own_pid)
    os.close(channel)
    return pid


def _reap(pid: int) -> bytes:
    try:
        _, status, used = os.wait4(pid, 0)
    except ChildProcessError:
        return REAPED.pack(0, 0, 0)
    return REAPED.pack(status, round((used.ru_utime + used.ru_stime) * 1e6), used.ru_maxrss)
