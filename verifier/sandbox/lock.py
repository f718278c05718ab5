"""The lock that a worker puts on itself after its fork: limits, no privileges, no files, no network, few system calls.

Owns the order of the layers and the report of which took effect. Called once a worker by `verifier.sandbox.worker`; what is already imported
still works afterwards, nothing else can be loaded.
"""

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable

import msgspec

from verifier.sandbox import landlock, seccomp

LAYERS = ("rlimits", "parent_death", "oom_score", "no_new_privs", "landlock", "landlock_tcp", "landlock_signals", "seccomp")
"""In the order in which they are put on; a worker reports one errno for each, 0 where it took effect."""

CHANNEL = 3
"""The descriptor of the worker's socket; 0 to 2 are /dev/null, others do not exist."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_MAX_DESCRIPTORS = 8


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker may use over its life."""

    memory_bytes: int
    lifetime_cpu_s: int


def die_with(parent: int) -> None:
    """SIGKILL for this process as soon as the *thread* that started it ends. Raises ProcessLookupError when `parent` is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, f"process {parent} ended before its child was bound to it")


def keep_only(channel: int) -> None:
    """Leave this process one socket, at descriptor `CHANNEL`, and /dev/null as its standard streams."""
    null = os.open(os.devnull, os.O_RDWR)
    socket_copy = os.dup(channel)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.dup2(socket_copy, CHANNEL)
    os.closerange(CHANNEL + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def put_on(limits: Limits, *, parent: int) -> tuple[int, ...]:
    """Lock this process for good. Returns an errno for each of `LAYERS`, 0 = took effect."""
    landlock_abi = 0

    def restrict_files() -> None:
        nonlocal landlock_abi
        landlock_abi = landlock.lock()

    steps: dict[str, Callable[[], None]] = {
        "rlimits": lambda: _limit(limits),
        "parent_death": lambda: die_with(parent),
        "oom_score": _volunteer_for_the_oom_killer,
        "no_new_privs": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        "landlock": restrict_files,
        "landlock_tcp": lambda: _known_to(landlock.covers_tcp(landlock_abi)),
        "landlock_signals": lambda: _known_to(landlock.covers_signals(landlock_abi)),
        "seccomp": seccomp.lock,
    }
    return tuple(_errno_of(steps[layer]) for layer in LAYERS)


def _errno_of(step: Callable[[], None]) -> int:
    try:
        step()
    except OSError as cause:
        return cause.errno or errno.EIO
    return 0


def _limit(limits: Limits) -> None:
    bounds = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.lifetime_cpu_s,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: _MAX_DESCRIPTORS,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def _volunteer_for_the_oom_killer() -> None:
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    try:
        os.write(score, b"1000")
    finally:
        os.close(score)


def _known_to(is_covered: bool) -> None:
    if not is_covered:
        raise OSError(errno.ENOSYS, "this landlock ABI does not know the restriction")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
