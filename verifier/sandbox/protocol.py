"""The bytes between the verifier and its worker: fixed fields, sequence numbers, encoded trees, never source text, never pickle.

Owns both directions. Called by `pool` on the trusted side and `worker` on the hostile one. Whatever does not fit is a `ProtocolError`, and the
one who sent it is killed.
"""

import enum
import re
import struct
import zlib

import msgspec

MAX_REQUEST_BYTES = 4 << 20
_STAGE_BYTES = 24

_LENGTH = struct.Struct("<I")
_REQUEST = struct.Struct("<IIBII")  # sequence, rules, question, CPU budget in µs, bytes of the first part
_REPLY = struct.Struct(f"<IBI{_STAGE_BYTES}sd")  # sequence, outcome, CPU in µs, stage, value
_HELLO = struct.Struct("<4sIB")  # magic, pid, number of layers; then one errno each
_ERRNO = struct.Struct("<H")
_MAGIC = b"FSW1"
_STAGE = re.compile(rb"[a-z][a-z0-9_]*\Z")

REPLY_BYTES = _REPLY.size
HEAD_BYTES = _LENGTH.size


class ProtocolError(Exception):
    """Bytes that the other side may not send."""


class Question(enum.IntEnum):
    DECIDE = 0x21  # two encoded trees
    REWARD = 0x42  # what a reward of the user may see, MessagePack


class Outcome(enum.IntEnum):
    """One byte; the values are far apart, so that a flipped bit is no other outcome."""

    CORRECT = 0x1D
    WRONG = 0x2B
    NO_ANSWER = 0x47
    UNDECIDED = 0x8E
    BUDGET = 0x53  # the CPU budget was spent
    MEMORY = 0x65  # the address space or Python's stack was
    ERROR = 0xB4  # the rules raised
    IMPORT = 0x9A  # the rules wanted a module that was not loaded before the lock
    REWARD = 0xD8  # the user's reward, in `value`


class Request(msgspec.Struct, frozen=True):
    """One question to a worker; `first` and `second` are the encoded answer and gold, or the user's record and nothing."""

    sequence: int
    rules: int
    question: Question
    budget_us: int
    first: bytes
    second: bytes = b""


class Reply(msgspec.Struct, frozen=True):
    sequence: int
    outcome: Outcome
    cpu_us: int
    stage: str
    value: float = 0.0


class Hello(msgspec.Struct, frozen=True):
    """A worker's first bytes: who it is, and an errno for each layer of its lock."""

    pid: int
    errnos: tuple[int, ...]


def rules_number(version: object) -> int:
    """Thirty-two bits that stand for a rules version, the same in every process."""
    return zlib.crc32(repr(version).encode())


def pack_request(request: Request) -> bytes:
    body = _REQUEST.pack(request.sequence, request.rules, request.question, request.budget_us, len(request.first)) + request.first + request.second
    if len(body) > MAX_REQUEST_BYTES:
        raise ProtocolError(f"a request of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def body_bytes(head: bytes) -> int:
    """How many bytes follow the head of a request."""
    (length,) = _LENGTH.unpack(head)
    if not _REQUEST.size <= length <= MAX_REQUEST_BYTES:
        raise ProtocolError(f"a request of {length} bytes")
    return int(length)


def unpack_request(body: bytes) -> Request:
    sequence, rules, question, budget_us, size = _REQUEST.unpack_from(body)
    parts = memoryview(body)[_REQUEST.size :]
    if size > len(parts) or question not in _QUESTIONS:
        raise ProtocolError("a request whose fields do not fit")
    return Request(sequence, rules, Question(question), budget_us, bytes(parts[:size]), bytes(parts[size:]))


def pack_reply(reply: Reply) -> bytes:
    return _REPLY.pack(reply.sequence, reply.outcome, min(reply.cpu_us, 2**32 - 1), reply.stage.encode()[:_STAGE_BYTES], reply.value)


def unpack_reply(data: bytes, *, expected: int) -> Reply:
    """The reply to request `expected`. Raises ProtocolError for any other length, number, outcome or stage."""
    if len(data) != _REPLY.size:
        raise ProtocolError(f"a reply of {len(data)} bytes")
    sequence, outcome, cpu_us, padded, value = _REPLY.unpack(data)
    stage = padded.rstrip(b"\0")
    if sequence != expected or outcome not in _OUTCOMES or _STAGE.match(stage) is None or value - value != 0.0:
        raise ProtocolError("a reply whose fields do not fit")
    return Reply(sequence, Outcome(outcome), cpu_us, stage.decode(), value)


def pack_hello(hello: Hello) -> bytes:
    return _HELLO.pack(_MAGIC, hello.pid, len(hello.errnos)) + b"".join(_ERRNO.pack(errno) for errno in hello.errnos)


def hello_bytes(num_layers: int) -> int:
    return _HELLO.size + num_layers * _ERRNO.size


def unpack_hello(data: bytes, *, num_layers: int) -> Hello:
    if len(data) != hello_bytes(num_layers):
        raise ProtocolError(f"a hello of {len(data)} bytes")
    magic, pid, count = _HELLO.unpack_from(data)
    if magic != _MAGIC or count != num_layers:
        raise ProtocolError("a hello whose fields do not fit")
    return Hello(pid, tuple(errno for (errno,) in _ERRNO.iter_unpack(data[_HELLO.size :])))


_QUESTIONS = frozenset(int(question) for question in Question)
_OUTCOMES = frozenset(int(outcome) for outcome in Outcome)
