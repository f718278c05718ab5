"""One worker as the pool sees it: its pid, its socket, what it is doing, and until when.

Owns the bytes read so far. Knows the protocol, decides nothing: `pool` says what a reply, a silence or a death means.
"""

import enum
import os
import socket

from verifier.sandbox import lock
from verifier.sandbox.protocol import REPLY_BYTES, Hello, ProtocolError, Reply, Request, hello_bytes, pack_request, unpack_hello, unpack_reply
from verifier.sandbox.sentinels import Sentinel
from verifier.sandbox.tasks import Task

_STATM = "/proc/{}/statm"
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class State(enum.Enum):
    STARTING = "starting"  # forked, its hello not yet here
    CHECKING = "checking"  # answers sentinels
    IDLE = "idle"
    BUSY = "busy"


class Child:
    """A worker between its fork and its burial."""

    def __init__(self, pid: int, channel: socket.socket, *, now: float) -> None:
        self.pid = pid
        self.channel = channel
        self.state = State.STARTING
        self.forked_at = now
        self.deadline: float | None = None
        self.errnos: tuple[int, ...] = ()
        self.is_proven = False
        self.task: Task | None = None
        self.checks: list[Sentinel] = []
        self.judged: list[Task] = []
        """What it answered since its last right sentinel."""
        self.num_answered = 0
        self.cpu_s = 0.0
        self._sequence = 0
        self._resting_mib = 0.0
        self._received = b""
        self._to_send = b""

    def fileno(self) -> int:
        return self.channel.fileno()

    def hello(self) -> Hello | None:
        """The worker's first words once they are whole. Raises ProtocolError; EOFError when it died."""
        size = hello_bytes(len(lock.LAYERS))
        if not self._has_received(size):
            return None
        hello = unpack_hello(self._take(), num_layers=len(lock.LAYERS))
        if hello.pid != self.pid:
            raise ProtocolError(f"worker {self.pid} says that it is {hello.pid}")
        self.errnos = hello.errnos
        return hello

    def ask(self, request: Request) -> bool:
        """Send a request under the next sequence number; true when all of it went out, else `flush` when the socket is writable."""
        self._sequence += 1
        self._to_send = pack_request(Request(self._sequence, request.rules, request.question, request.budget_us, request.first, request.second))
        return self.flush()

    def flush(self) -> bool:
        """Send what is left of the request. Raises EOFError when the worker died."""
        try:
            self._to_send = self._to_send[self.channel.send(self._to_send) :]
        except BlockingIOError:
            pass
        except OSError as cause:
            raise EOFError(f"worker {self.pid} died") from cause
        return not self._to_send

    def reply(self) -> Reply | None:
        """The reply to the last request once it is whole. Raises ProtocolError; EOFError when it died."""
        if not self._has_received(REPLY_BYTES):
            return None
        reply = unpack_reply(self._take(), expected=self._sequence)
        self.cpu_s += reply.cpu_us / 1e6
        return reply

    def grown_mib(self) -> float:
        """Resident memory above that of its first idle moment."""
        try:
            with open(_STATM.format(self.pid)) as sizes:
                resident = int(sizes.read().split()[1]) * _PAGE_MIB
        except OSError:
            return 0.0
        self._resting_mib = self._resting_mib or resident
        return resident - self._resting_mib

    def _has_received(self, size: int) -> bool:
        try:
            part = self.channel.recv(size + 1)
        except BlockingIOError:
            return False
        except OSError as cause:
            raise EOFError(f"worker {self.pid} died") from cause
        if not part:
            raise EOFError(f"worker {self.pid} died")
        self._received += part
        if len(self._received) > size:
            raise ProtocolError(f"worker {self.pid} sent more than was asked")
        return len(self._received) == size

    def _take(self) -> bytes:
        received, self._received = self._received, b""
        return received
