"""A link between two network namespaces that loses and delays frames, both ways, as it is told on stdin: "LOSS DELAY_S" a line.

A program of its own, started by `hosts`: one network interface in each namespace, and between the two a queue of frames with the times at which they
are due. It does what `tc netem` does, which many a kernel lacks. The loss is drawn from a fixed seed.
"""

import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import sys
import time

from hosts import enter_network

TUNSETIFF = 0x400454CA
TAP_WITHOUT_HEADER = 0x0002 | 0x1000
FRAME_BYTES = 65536


def interface(namespace: str, name: str) -> int:
    """A new network interface in that namespace; what it sends is read from the descriptor, what is written there it receives."""
    with open(namespace) as there:
        enter_network(there.fileno())
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_WITHOUT_HEADER))
    return descriptor


class Wire:
    """Frames under way between two interfaces."""

    def __init__(self, ends: tuple[int, int]) -> None:
        self._other = {ends[0]: ends[1], ends[1]: ends[0]}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self._chance = random.Random(0)
        self.loss, self.delay_s = 0.0, 0.0

    def take(self, end: int) -> None:
        """Everything that an interface sends now."""
        while True:
            try:
                frame = os.read(end, FRAME_BYTES)
            except BlockingIOError:
                return
            if self._chance.random() >= self.loss:
                heapq.heappush(self._under_way, (time.monotonic() + self.delay_s, next(self._order), self._other[end], frame))

    def give(self) -> float | None:
        """Deliver what is due; returns the seconds until the next frame is, None where none is under way."""
        while self._under_way:
            due_s = self._under_way[0][0] - time.monotonic()
            if due_s > 0:
                return due_s
            _, _, end, frame = heapq.heappop(self._under_way)
            try:
                os.write(end, frame)
            except OSError:  # an interface that is down, or full: as lost as on any link
                continue
        return None


def main() -> None:
    home, first, there, second = sys.argv[1:]
    ends = (interface(home, first), interface(there, second))
    wire = Wire(ends)
    ready = selectors.DefaultSelector()
    for source in (*ends, sys.stdin.fileno()):
        ready.register(source, selectors.EVENT_READ)
    sys.stdout.write("laid\n")
    sys.stdout.flush()
    while True:
        for key, _ in ready.select(wire.give()):
            if key.fd in ends:
                wire.take(key.fd)
            elif not (line := sys.stdin.readline()):
                return
            else:
                wire.loss, wire.delay_s = map(float, line.split())


if __name__ == "__main__":
    main()
