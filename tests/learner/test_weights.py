"""Laws of the weight broadcast, with real process groups over gloo; receivers that die live in processes of their own."""

import os
import signal
import threading
import time
from multiprocessing.connection import Connection

import pytest
import torch
from broadcasts import DEADLINE_S, V1, V2, V3, processes, receivers, receiving_process, same_bits, senders, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.weight_codec import chunks, digest, views
from learner.weight_protocol import StagedVersion
from learner.weight_receiver import WeightReceiver
from learner.weight_watch import StagedWatch
from learner.weights import LostReceiversError, WeightSender
from rlvr.errors import BroadcastError
from rlvr.records import Version

pytestmark = pytest.mark.processes

SLACK_S = 4.0  # what a busy machine may add to a deadline and its grace


def test_the_digest_sees_names_shapes_and_every_bit_but_no_order() -> None:
    base = weights()
    assert digest(dict(reversed(base.items()))) == digest(base)
    flipped = {**base, "model.odd": (base["model.odd"].view(torch.int16) ^ torch.tensor([0, 0, 0, 0, 1], dtype=torch.int16)).view(torch.bfloat16)}
    reshaped = {**base, "model.empty": torch.empty(4, 0, dtype=torch.bfloat16)}
    renamed = {name.replace("odd", "even"): tensor for name, tensor in base.items()}
    assert len({digest(each) for each in (base, flipped, reshaped, renamed)}) == 4


def test_only_bf16_in_host_memory_is_published() -> None:
    with senders() as sender:
        sender.form([])
        with pytest.raises(ValueError, match=r"model\.x: published weights are bfloat16 in host memory, got torch\.float32"):
            sender.publish(V1, {"model.x": torch.zeros(2)})


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=6), chunk_values=st.integers(1, 12))
def test_chunks_and_views_are_a_round_trip(sizes: list[int], chunk_values: int) -> None:
    tensors = {str(index): torch.arange(size).bfloat16() + index for index, size in enumerate(sizes)}
    pieces = [chunk.clone() for chunk in chunks(list(tensors.values()), chunk_values)]
    assert all(piece.numel() == chunk_values for piece in pieces[:-1])
    flat = torch.cat([torch.empty(0, dtype=torch.bfloat16), *pieces])
    assert same_bits(views(flat, list(tensors), [tuple(tensor.shape) for tensor in tensors.values()]), tensors)


def test_two_receivers_get_every_bit() -> None:
    sent = weights(seed=1)
    with senders() as sender, receivers(sender.address, "g0.0", "g1.0") as (first, second):
        sender.form(["g0.0", "g1.0"])
        report = sender.publish(V1, sent)
        assert (report.digest, report.receivers) == (digest(sent), ("g0.0", "g1.0"))
        assert report.bytes_sent == sum(tensor.numel() * 2 for tensor in sent.values())
        assert same_bits(first.take(V1), sent)
        assert same_bits(second.take(V1), sent)


def test_a_receiver_keeps_the_newest_version_and_those_announced_with_keep_until_a_newer_one_is_taken() -> None:
    with senders() as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        for version, keep in ((V1, True), (V2, False), (V3, False)):
            sender.publish(version, weights(version.step), keep=keep)
        assert receiver.staged() == (StagedVersion(V1, keep=True), StagedVersion(V3))
        assert same_bits(receiver.take(V1), weights(1))
        assert receiver.staged() == (StagedVersion(V3),)
        with pytest.raises(BroadcastError, match=r"version 0\.2 is not staged at g0\.0 \(staged: 0\.3\)"):
            receiver.take(V2)
        sender.publish(Version(step=4), weights(4), keep=True)
        sender.publish(Version(step=5), weights(5))
        assert same_bits(receiver.take(Version(step=5)), weights(5))
        assert receiver.staged() == ()


def test_another_digest_is_refused_and_the_version_before_it_stays() -> None:
    with senders() as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        sender.publish(V1, weights(1))
        with pytest.raises(LostReceiversError, match=r"was not received: g0\.0: digest") as caught:
            sender.publish(V2, weights(2), expected=digest(weights(3)))
        assert caught.value.names == ("g0.0",)
        assert receiver.staged() == (StagedVersion(V1),)
        with pytest.raises(BroadcastError, match="form one first"):
            sender.publish(V3, weights(3))


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_receiver_costs_one_deadline_and_the_next_group_goes_on_without_it(death: signal.Signals) -> None:
    large = weights(2, num_values=2_000_000)  # more than sockets buffer: the broadcast is stuck in the middle
    with (
        senders(chunk_bytes=2**20) as sender,
        receivers(sender.address, "alive.0") as (alive,),
        receiving_process(sender.address, "dead.0") as process,
    ):
        sender.form(["alive.0", "dead.0"])
        sender.publish(V1, weights(1))
        assert process.pid is not None
        os.kill(process.pid, death)
        started = time.monotonic()
        with pytest.raises(LostReceiversError, match=r"dead\.0") as caught:
            sender.publish(V2, large)
        assert "dead.0" in caught.value.names
        assert time.monotonic() - started < DEADLINE_S + SLACK_S
        assert StagedVersion(V1) in alive.staged() or StagedVersion(V2) in alive.staged()
        sender.form(["alive.0"])
        sender.publish(V3, large)
        assert same_bits(alive.take(V3), large)


def test_a_group_that_does_not_form_names_who_is_missing_and_the_next_one_forms() -> None:
    with senders(deadline_s=1.0) as sender, receivers(sender.address, "g0.0") as (receiver,):
        with pytest.raises(LostReceiversError, match=r"epoch 1: g1\.0, g2\.0 did not join within 1 s") as caught:
            sender.form(["g0.0", "g1.0", "g2.0"])
        assert caught.value.names == ("g1.0", "g2.0")
        sender.form(["g0.0"])
        sender.publish(V1, weights(1))
        assert receiver.staged() == (StagedVersion(V1),)


def test_a_receiver_may_come_after_its_group_was_called() -> None:
    with senders() as sender:
        forming = threading.Thread(target=sender.form, args=(["late.0"],))
        forming.start()
        with receivers(sender.address, "late.0") as (late,):
            forming.join()
            sender.publish(V1, weights(1))
            assert same_bits(late.take(V1), weights(1))


def test_a_receiver_outside_the_group_gets_nothing_until_a_group_has_it() -> None:
    with senders() as sender, receivers(sender.address, "g0.0", "g1.0") as (member, outsider):
        sender.form(["g0.0"])
        sender.publish(V1, weights(1))
        sender.form(["g1.0", "g0.0"])
        sender.publish(V2, weights(2))
        assert member.staged() == outsider.staged() == (StagedVersion(V2),)


def test_a_version_for_nobody_is_published_at_once() -> None:
    with senders() as sender:
        with pytest.raises(BroadcastError, match="form one first"):
            sender.publish(V1, weights())
        sender.form([])
        assert sender.publish(V1, weights()).bytes_sent == 0


def send_and_hang(pipe: Connection) -> None:
    sender = WeightSender("127.0.0.1", deadline_s=60.0, chunk_bytes=2**20)
    pipe.send(sender.address)
    sender.form(pipe.recv())
    sender.publish(V1, weights(1))
    pipe.send("published")
    pipe.recv()
    pipe.send("publishing")
    sender.publish(V2, weights(2, num_values=8_000_000))


def test_a_sender_that_dies_in_mid_broadcast_leaves_receivers_at_a_whole_version() -> None:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=send_and_hang, args=(theirs,))
    process.start()
    address = ours.recv()
    with receivers(address, "g0.0", deadline_s=60.0) as (receiver,), receiving_process(address, "stopped.0") as stopped:
        ours.send(["g0.0", "stopped.0"])
        assert ours.recv() == "published"
        watch = StagedWatch(address, ["g0.0"])
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)  # so that the broadcast cannot end
        ours.send("go on")
        assert ours.recv() == "publishing"
        process.kill()
        process.join()
        with pytest.raises(BroadcastError, match="the sender of weights is gone"):
            watch.next(V1, wait_s=60.0)
        receiver.close()
        assert receiver.staged() == (StagedVersion(V1),)
        with pytest.raises(BroadcastError, match=r"version 0\.2 is not staged"):
            receiver.take(V2)
        assert same_bits(receiver.take(V1), weights(1))


def test_nobody_answers_where_no_sender_is() -> None:
    with senders() as sender:
        host, port = sender.address
    del sender
    with pytest.raises(BroadcastError, match=f"no sender of weights at {host}:{port}"):
        WeightReceiver((host, port), "g0.0", deadline_s=0.2)
