"""Frames: how records cross a process boundary.

Owns the frame and its limits: version byte, u32 payload length, u32 CRC-32 of everything else, MessagePack payload. Called by the actors and the
verifier's pool. Nothing is unpickled; whatever is cut, corrupt, oversized, of another version or shape is a `WireError` that names what is wrong.
"""

import struct
import zlib
from typing import Any, TypeVar

import msgpack
import msgspec

from rlvr.errors import WireError

WIRE_VERSION = 1
MAX_FRAME_BYTES = 512 * 2**20
"""A step of 1,024 rollouts of 3,072 tokens is about 40 MB."""

_HEAD = struct.Struct("<BI")  # version, payload length
_CHECK = struct.Struct("<I")  # CRC-32 of head and payload
HEADER_BYTES = _HEAD.size + _CHECK.size

T = TypeVar("T")


def pack(obj: Any) -> bytes:
    """Make a frame of a record, or of a list, tuple or dict of records. Raises WireError when it would be too large or cannot be packed."""
    try:
        plain = msgspec.to_builtins(obj, builtin_types=(bytes,))
        # surrogatepass: a lone surrogate in a model's text is the verifier's business, not a reason to lose the rollout
        payload: bytes = msgpack.packb(plain, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise WireError(f"a {type(obj).__name__} cannot be packed: {error}") from error
    if HEADER_BYTES + len(payload) > MAX_FRAME_BYTES:
        raise WireError(f"a frame holds at most {MAX_FRAME_BYTES} bytes, this {type(obj).__name__} needs {HEADER_BYTES + len(payload)}")
    head = _HEAD.pack(WIRE_VERSION, len(payload))
    return head + _CHECK.pack(_checksum(head, payload)) + payload


def unpack(frame: bytes, type_: type[T]) -> T:
    """Read a frame that holds exactly one `type_`: a record, or a list or tuple of records. Raises WireError that names what is wrong."""
    payload = _checked_payload(frame)
    try:
        plain = msgpack.unpackb(payload, unicode_errors="surrogatepass")
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"the payload is not MessagePack: {error}") from error
    try:
        return msgspec.convert(plain, type_, builtin_types=(bytes,))
    except (msgspec.ValidationError, TypeError) as error:
        raise WireError(f"the payload is no {getattr(type_, '__name__', type_)}: {error}") from error


def _checked_payload(frame: bytes) -> memoryview:
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"oversized: a frame holds at most {MAX_FRAME_BYTES} bytes, this one has {len(frame)}")
    if frame and frame[0] != WIRE_VERSION:
        raise WireError(f"wire version {frame[0]}; this process speaks version {WIRE_VERSION}")
    if len(frame) < HEADER_BYTES:
        raise WireError(f"cut: {len(frame)} bytes are less than a header of {HEADER_BYTES}")
    _, length = _HEAD.unpack_from(frame)
    payload = memoryview(frame)[HEADER_BYTES:]
    if len(payload) != length:
        raise WireError(f"{'cut' if len(payload) < length else 'too long'}: the header promises {length} payload bytes, {len(payload)} came")
    (expected,) = _CHECK.unpack_from(frame, _HEAD.size)
    actual = _checksum(frame[: _HEAD.size], payload)
    if actual != expected:
        raise WireError(f"corrupt: checksum {actual:08x}, the header says {expected:08x}")
    return payload


def _checksum(head: bytes, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(head))
