"""Landlock without a single allowed path: no file can be opened, no TCP port bound or reached, no outside process signalled.

Owns the three system calls and their bits by ABI. Called by `verifier.sandbox.lock`, after `no_new_privs`. The result decides, never the
kernel's version: a container may refuse the calls on a kernel that has them.
"""

import ctypes
import os
import struct

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on every architecture
_VERSION_FLAG = 1
_FS_BITS_BY_ABI = {1: 13, 2: 14, 3: 15, 5: 16}
_TCP_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_TCP_ABI, _SCOPE_ABI = 4, 6


def abi() -> int:
    """The landlock ABI of this kernel. Raises OSError where there is none."""
    return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def lock() -> int:
    """Forbid this process every path, and TCP and outside signals where the ABI knows them. Returns the ABI; raises OSError."""
    version = abi()
    bits = max(count for since, count in _FS_BITS_BY_ABI.items() if since <= version)
    fields = [(1 << bits) - 1]
    if version >= _TCP_ABI:
        fields.append(_TCP_BIND_AND_CONNECT)
    if version >= _SCOPE_ABI:
        fields.append(_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def covers_tcp(version: int) -> bool:
    return version >= _TCP_ABI


def covers_signals(version: int) -> bool:
    return version >= _SCOPE_ABI


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_char_p(a) if isinstance(a, bytes | None) else ctypes.c_long(a) for a in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock system call {number}: {os.strerror(ctypes.get_errno())}")
    return result
