"""The frame: what goes in comes out; whatever is damaged is refused by name."""

import itertools
import struct
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr import wire
from rlvr.errors import WireError
from rlvr.records import (
    Batch,
    FinishReason,
    JudgedRollout,
    Lease,
    Rollout,
    Unverified,
    Verdict,
    VerdictKind,
    Version,
    VersionSpan,
)

settings.load_profile("ci")  # no deadlines, which a busy machine would miss, and the same examples each time

TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates included
VERSIONS = st.builds(Version, lineage=st.integers(0, 9), step=st.integers(0, 10**6))


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    num_tokens = draw(st.integers(1, 50))
    edges = sorted({0, num_tokens, *draw(st.lists(st.integers(1, num_tokens), max_size=3))})
    return Rollout(
        id=draw(TEXT),
        problem_id=draw(TEXT),
        group_id=draw(TEXT),
        lease_id=draw(TEXT),
        token_data=draw(st.binary(min_size=4 * num_tokens, max_size=4 * num_tokens)),
        logprob_data=draw(st.binary(min_size=4 * num_tokens, max_size=4 * num_tokens)),
        spans=tuple(VersionSpan(draw(VERSIONS), start, end) for start, end in itertools.pairwise(edges)),
        finish_reason=draw(st.sampled_from(FinishReason)),
        seconds=draw(st.floats(0, 1e6)),
        text=draw(TEXT),
    )


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    kind = draw(st.sampled_from(VerdictKind))
    reward = None if kind.is_ours else draw(st.floats(-10, 10))
    return Verdict(rollout_id=draw(TEXT), lease_id=draw(TEXT), kind=kind, reward=reward, answer=draw(st.none() | TEXT), seconds=draw(st.floats(0, 9)))


LEASES = st.builds(
    Lease,
    id=TEXT,
    problem_id=TEXT,
    group_id=TEXT,
    rollout_ids=st.lists(TEXT, max_size=4).map(tuple),
    prompt_ids=st.lists(st.integers(0, 2**31 - 1), max_size=9).map(tuple),
    step=st.integers(0, 10**6),
    seeds=st.none() | st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
    deadline_s=st.floats(0, 1e6),
)
UNVERIFIED = st.builds(Unverified, rollout_id=TEXT, lease_id=TEXT, problem_id=TEXT, text=TEXT, gold=TEXT, is_truncated=st.booleans())
BATCHES = st.builds(
    Batch,
    step=st.integers(0, 10**6),
    lineage=st.integers(0, 9),
    rollouts=st.lists(st.builds(JudgedRollout, rollout=rollouts(), verdict=verdicts()), max_size=3).map(tuple),
    prompts=st.dictionaries(TEXT, st.lists(st.integers(0, 99), max_size=3).map(tuple), max_size=3),
    short=st.integers(0, 9),
)


@given(rollouts() | verdicts() | LEASES | UNVERIFIED | BATCHES | VERSIONS)
def test_every_record_comes_back_as_it_went(record: object) -> None:
    assert wire.unpack(wire.pack(record), type(record)) == record


@given(st.lists(rollouts(), max_size=4))
def test_lists_and_tuples_of_records_come_back(records: list[Rollout]) -> None:
    assert wire.unpack(wire.pack(records), list[Rollout]) == records
    assert wire.unpack(wire.pack(tuple(records)), tuple[Rollout, ...]) == tuple(records)


def test_arrays_survive_bit_for_bit(rollout: Rollout) -> None:
    back = wire.unpack(wire.pack(rollout), Rollout)
    assert back.token_ids.tolist() == [7, -1, 2**31 - 1]
    assert back.logprobs.view(np.int32).tolist() == rollout.logprobs.view(np.int32).tolist()


def test_token_ids_travel_as_bytes_and_not_as_numbers(rollout: Rollout) -> None:
    assert rollout.token_data in wire.pack(rollout)


@given(rollouts(), st.data())
def test_a_flip_of_any_one_byte_is_refused(record: Rollout, data: st.DataObject) -> None:
    frame = bytearray(wire.pack(record))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        wire.unpack(bytes(frame), Rollout)


def test_every_flip_of_a_bit_or_a_byte_at_every_place_is_refused(rollout: Rollout) -> None:
    frame = wire.pack(rollout)
    for place, mask in itertools.product(range(len(frame)), (1, 2, 4, 8, 16, 32, 64, 128, 255)):
        with pytest.raises(WireError):
            wire.unpack(frame[:place] + bytes([frame[place] ^ mask]) + frame[place + 1 :], Rollout)


def test_every_cut_is_refused(rollout: Rollout) -> None:
    frame = wire.pack(rollout)
    for length in range(len(frame)):
        with pytest.raises(WireError, match="cut"):
            wire.unpack(frame[:length], Rollout)


@given(st.binary(max_size=300))
def test_noise_never_gets_through(noise: bytes) -> None:
    with pytest.raises(WireError):
        wire.unpack(noise, Rollout)


ATOMS = st.none() | st.booleans() | st.integers(-9, 9) | st.binary(max_size=3) | TEXT


@given(st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_a_sound_frame_of_another_shape_is_refused(content: object) -> None:
    with pytest.raises(WireError, match="the payload is"):
        wire.unpack(frame_of(msgpack.packb(content, unicode_errors="surrogatepass")), Rollout)


def test_what_is_wrong_is_named(rollout: Rollout) -> None:
    frame = wire.pack(rollout)
    flipped = frame[:-1] + bytes([frame[-1] ^ 1])
    for damaged, reason in [
        (b"\x09" + frame[1:], "wire version 9; this process speaks version 1"),
        (frame + b"\0", "too long"),
        (frame[:-3], "cut: the header promises"),
        (b"", "cut: 0 bytes"),
        (flipped, "corrupt: checksum"),
        (frame_of(b"\xc1"), "not MessagePack"),
        (frame_of(msgpack.packb({"lineage": 0, "step": "x"})), r"no Rollout: Object missing required field `id`"),
    ]:
        with pytest.raises(WireError, match=reason):
            wire.unpack(damaged, Rollout)


def test_a_record_that_breaks_its_own_contract_is_refused(rollout: Rollout) -> None:
    fields = msgpack.unpackb(wire.pack(rollout)[wire.HEADER_BYTES :])
    fields["spans"][0]["end"] = 2
    with pytest.raises(WireError, match="version spans cover 2 of 3 tokens"):
        wire.unpack(frame_of(msgpack.packb(fields)), Rollout)


def test_oversized_frames_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch, rollout: Rollout) -> None:
    frame = wire.pack(rollout)
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", len(frame) - 1)
    with pytest.raises(WireError, match="oversized"):
        wire.unpack(frame, Rollout)
    with pytest.raises(WireError, match=f"at most {len(frame) - 1} bytes, this Rollout needs {len(frame)}"):
        wire.pack(rollout)


def test_what_cannot_be_packed_is_refused() -> None:
    for thing in (object(), 2**80, {1j: 2}):
        with pytest.raises(WireError, match="cannot be packed"):
            wire.pack(thing)


def test_a_newer_peer_may_add_a_field_with_a_default(rollout: Rollout) -> None:
    fields = msgpack.unpackb(wire.pack(rollout)[wire.HEADER_BYTES :])
    assert wire.unpack(frame_of(msgpack.packb(fields | {"added_later": 1})), Rollout) == rollout


@pytest.fixture
def rollout() -> Rollout:
    return Rollout(
        id="r0",
        problem_id="p",
        group_id="g",
        lease_id="l",
        token_data=np.array([7, -1, 2**31 - 1], "<i4").tobytes(),
        logprob_data=np.array([-0.5, -0.0, np.nan], "<f4").tobytes(),
        spans=(VersionSpan(Version(step=1), 0, 3),),
        finish_reason=FinishReason.STOP,
        seconds=0.5,
        text="\\boxed{4}",
    )


def frame_of(payload: bytes) -> bytes:
    """A frame that is sound but for its content, made without `pack`."""
    head = struct.pack("<BI", 1, len(payload))
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload
