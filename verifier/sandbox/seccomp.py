"""A seccomp allow-list: the few system calls that a worker needs to compute and to answer, and death for every other.

Owns the numbers of two architectures and the filter's bytes. Called by `verifier.sandbox.lock`; knows nothing of what runs behind it.
An architecture without a table is refused by name, never guessed.
"""

import ctypes
import errno
import platform
import struct

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
PROT_EXEC = 4

_LOAD, _IF_EQUAL, _IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _THIRD_ARGUMENT_AT = 0, 4, 32

_CALLS = (  # name, number on x86_64, number on aarch64
    ("read", 0, 63), ("write", 1, 64), ("futex", 202, 98), ("mmap", 9, 222), ("mprotect", 10, 226), ("munmap", 11, 215),
    ("mremap", 25, 216), ("madvise", 28, 233), ("brk", 12, 214), ("clock_gettime", 228, 113), ("setitimer", 38, 103),
    ("getrusage", 98, 165), ("rt_sigaction", 13, 134), ("rt_sigprocmask", 14, 135), ("rt_sigreturn", 15, 139),
    ("sigaltstack", 131, 132), ("restart_syscall", 219, 128), ("close", 3, 57), ("lseek", 8, 62), ("fstat", 5, 80),
    ("getpid", 39, 172), ("gettid", 186, 178), ("sched_yield", 24, 124), ("sched_getaffinity", 204, 123),
    ("getrandom", 318, 278), ("exit", 60, 93), ("exit_group", 231, 94),
)  # fmt: skip
_COLUMNS = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
_NEVER_EXECUTABLE = ("mmap", "mprotect")


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One classic BPF instruction; jumps count the instructions that they skip."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def allow_list(machine: str) -> bytes:
    """The filter for `machine` (as `platform.machine()` names it). Raises OSError(ENOSYS) where no table is known."""
    if machine not in _COLUMNS:
        raise OSError(errno.ENOSYS, f"no seccomp table for {machine}")
    audit_arch, column = _COLUMNS[machine]
    parts = [
        instruction(_LOAD, _ARCH_AT),
        instruction(_IF_EQUAL, audit_arch, if_true=1),
        instruction(_RETURN, KILL_PROCESS),
        instruction(_LOAD, _NUMBER_AT),
    ]
    for call in _CALLS:
        parts += _allow_without_exec(int(call[column])) if call[0] in _NEVER_EXECUTABLE else _allow(int(call[column]))
    return b"".join([*parts, instruction(_RETURN, KILL_PROCESS)])


def _allow(number: int) -> list[bytes]:
    return [instruction(_IF_EQUAL, number, if_false=1), instruction(_RETURN, ALLOW)]


def _allow_without_exec(number: int) -> list[bytes]:
    return [
        instruction(_IF_EQUAL, number, if_false=4),
        instruction(_LOAD, _THIRD_ARGUMENT_AT),
        instruction(_IF_BITS, PROT_EXEC, if_false=1),
        instruction(_RETURN, KILL_PROCESS),
        instruction(_RETURN, ALLOW),
    ]


def install(program: bytes) -> None:
    """Bind the calling thread, and all that it starts, to `program`; there is no way back. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(program, len(program))
    head = _Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(head), zero, zero):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def lock() -> None:
    """Leave this process its allow-list. Needs `no_new_privs` first."""
    install(allow_list(platform.machine()))
