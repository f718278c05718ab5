"""What hostile code tries once it runs inside a worker: loaded there as a user's reward, so it meets the real lock."""

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from verifier.rewards import Graded
from verifier.sandbox.lock import CHANNEL

CANARY = "firesteel_canary_of_the_lock"


def attack(graded: Graded) -> float:
    """Runs the attack that the answer names; 1.0 means that it went through."""
    assert graded.answer is not None
    _ATTACKS[graded.answer]()
    return 1.0


def _raise_the_stack() -> None:
    _raise_the_stack()


def _write_executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def _burn() -> None:
    while True:
        pass


def _hang() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _forge(reply: bytes) -> None:
    os.write(CHANNEL, reply)


_ATTACKS = {
    "nothing": lambda: None,
    "read a file": lambda: Path("/etc/hostname").read_bytes(),
    "write a file": lambda: Path("/tmp", CANARY).write_text("here"),
    "list a folder": lambda: os.listdir("/"),
    "run a program": lambda: subprocess.run(["/bin/true"], check=True),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "start a thread": lambda: threading.Thread(target=int).start(),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "signal the parent": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "signal everybody": lambda: os.kill(-1, signal.SIGTERM),
    "trace the parent": lambda: ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0),
    "map executable memory": _write_executable_memory,
    "import a module": lambda: __import__("wave"),
    "sleep": lambda: time.sleep(100.0),
    "change the limits": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "burn": _burn,
    "big power": lambda: 9 ** (9**9),
    "hang": _hang,
    "fill the memory": lambda: bytearray(4 << 30),
    "raise the stack": _raise_the_stack,
    "raise": lambda: 1 / 0,
    "leave": lambda: os._exit(0),
    "crash": lambda: ctypes.string_at(0),
    "forge a reply": lambda: _forge(bytes(41)),
    "half a reply, then leave": lambda: (_forge(b"\x01"), os._exit(0)),
    "print": lambda: print("verdict: correct", flush=True),  # noqa: T201
    "close the channel": lambda: (os.close(CHANNEL), _burn()),
}
