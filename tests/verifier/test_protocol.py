"""The bytes between verifier and worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.sandbox.protocol import (
    HEAD_BYTES,
    MAX_REQUEST_BYTES,
    REPLY_BYTES,
    Hello,
    Outcome,
    ProtocolError,
    Question,
    Reply,
    Request,
    body_bytes,
    hello_bytes,
    pack_hello,
    pack_reply,
    pack_request,
    rules_number,
    unpack_hello,
    unpack_reply,
    unpack_request,
)

U32 = st.integers(0, 2**32 - 1)
REPLY = Reply(7, Outcome.CORRECT, 1234, "polynomial", 0.0)


@given(U32, U32, st.sampled_from(Question), U32, st.binary(max_size=300), st.binary(max_size=300))
def test_a_request_comes_out_as_it_went_in(sequence: int, rules: int, question: Question, budget_us: int, first: bytes, second: bytes) -> None:
    request = Request(sequence, rules, question, budget_us, first, second)
    frame = pack_request(request)
    assert body_bytes(frame[:HEAD_BYTES]) == len(frame) - HEAD_BYTES
    assert unpack_request(frame[HEAD_BYTES:]) == request


@given(U32, st.sampled_from(Outcome), U32, st.from_regex(r"[a-z][a-z0-9_]{0,23}", fullmatch=True), st.floats(allow_nan=False, allow_infinity=False))
def test_a_reply_comes_out_as_it_went_in(sequence: int, outcome: Outcome, cpu_us: int, stage: str, value: float) -> None:
    reply = Reply(sequence, outcome, cpu_us, stage, value)
    assert unpack_reply(pack_reply(reply), expected=sequence) == reply


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ProtocolError):
        unpack_reply(pack_reply(Reply(7, Outcome.REWARD, 0, "reward", value)), expected=7)


def test_a_reply_to_another_request_is_refused() -> None:
    with pytest.raises(ProtocolError):
        unpack_reply(pack_reply(REPLY), expected=8)


@pytest.mark.parametrize("size", [0, 1, REPLY_BYTES - 1, REPLY_BYTES + 1])
def test_a_reply_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        unpack_reply(pack_reply(REPLY).ljust(size, b"a")[:size], expected=7)


def test_only_the_named_outcomes_pass() -> None:
    whole = bytearray(pack_reply(REPLY))
    passed = set()
    for byte in range(256):
        whole[4] = byte
        try:
            passed.add(unpack_reply(bytes(whole), expected=7).outcome)
        except ProtocolError:
            continue
    assert passed == set(Outcome)


def test_no_outcome_is_one_flipped_bit_from_another() -> None:
    assert all((one ^ other).bit_count() > 1 for one in Outcome for other in Outcome if one is not other)


@given(st.binary(min_size=24, max_size=24).filter(lambda stage: not stage.rstrip(b"\0").isalnum()))
def test_a_stage_that_is_no_plain_word_is_refused(stage: bytes) -> None:
    whole = bytearray(pack_reply(REPLY))
    whole[9:33] = stage
    with pytest.raises(ProtocolError):
        unpack_reply(bytes(whole), expected=7)


def test_an_oversized_request_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError):
        pack_request(Request(1, 1, Question.DECIDE, 1, bytes(MAX_REQUEST_BYTES)))


def test_a_hello_comes_out_as_it_went_in_and_in_no_other_length() -> None:
    hello = Hello(4321, (0, 38, 0))
    assert unpack_hello(pack_hello(hello), num_layers=3) == hello
    assert len(pack_hello(hello)) == hello_bytes(3)
    with pytest.raises(ProtocolError):
        unpack_hello(pack_hello(hello), num_layers=4)


def test_different_rules_have_different_numbers() -> None:
    assert rules_number("1") != rules_number("2")
    assert rules_number("1") == rules_number("1")
