"""A command run below an interpreter of its own, watched from outside: what memory, processes and sockets it had.

A child of the test session inherits the session's high-water mark at its fork, so the figure is taken by a small interpreter between the two.
"""

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from processes import children_of

SAMPLE_S = 0.02
_BETWEEN = (
    "import json, resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[1:])\n"
    "print(json.dumps([done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
)


class Watched(NamedTuple):
    """How a command ended; `sockets`: those to another place or waiting for one, as /proc names them; `samples`: how often it was looked at."""

    code: int
    max_rss_mib: float
    """Of its largest process that ended and was reaped, or that lived at a sample."""
    sockets: set[str]
    samples: int


def watch(command: Sequence[str]) -> Watched:
    """Run the command to its end, sampling all its processes meanwhile."""
    between = subprocess.Popen([sys.executable, "-c", _BETWEEN, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    stop, sockets, marks, samples = threading.Event(), set[str](), [0], [0]

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            for pid in children_of(between.pid):
                sockets.update(foreign_sockets(pid))
                marks[0] = max(marks[0], high_water_kib(pid))
            samples[0] += 1

    sampler = threading.Thread(target=sample)
    sampler.start()
    said, _ = between.communicate()
    stop.set()
    sampler.join()
    code, reaped_kib = json.loads(said.splitlines()[-1])
    return Watched(code, max(reaped_kib, marks[0]) / 1024, sockets, samples[0])


def high_water_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def foreign_sockets(pid: int) -> Iterator[str]:
    """The internet sockets that a process holds: every listening one, and each with another end outside this machine."""
    held = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    held.add(target[8:-1])
    if not held:
        return
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in held and is_foreign(family, fields[2], state=fields[3]):
                    yield f"{family} {fields[1]} -> {fields[2]}"


def is_foreign(family: str, other_end: str, *, state: str) -> bool:
    if family.startswith("tcp") and state != "0A":
        return not address(other_end).is_loopback
    return True


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """`0100007F:1F90` as /proc writes it: words of four bytes, each in this machine's order."""
    words = bytes.fromhex(text.partition(":")[0])
    return ipaddress.ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)))
