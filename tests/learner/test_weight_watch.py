"""Laws of what a watch returns and what receivers keep, with real process groups over gloo."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from broadcasts import DEADLINE_S, V1, V2, V3, Weights, receivers, receiving_process, same_bits, senders, weights

from learner.weight_group import connect
from learner.weight_protocol import KEPT_MAX, NUM_EVENTS_KEY, StagedVersion, receiver_names
from learner.weight_receiver import WeightReceiver
from learner.weight_watch import StagedWatch
from learner.weights import LostReceiversError, WeightSender
from rlvr.errors import BroadcastError
from rlvr.records import Version

pytestmark = pytest.mark.processes


@contextmanager
def publishing(sender: WeightSender, version: Version, tensors: Weights, *, keep: bool = False) -> Iterator[None]:
    """Publish in a thread; the end of the block waits for the publication and raises what it raised."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        published = thread.submit(sender.publish, version, tensors, keep=keep)
        yield
        published.result()


def take_next(watch: StagedWatch, receiver: WeightReceiver, after: Version | None) -> Version:
    staged = watch.next(after, wait_s=DEADLINE_S)
    assert staged is not None
    assert same_bits(receiver.take(staged.version), weights(staged.version.step))
    return staged.version


def test_a_watch_in_another_place_sees_kept_versions_first_and_only_what_all_its_workers_have() -> None:
    names = receiver_names("g0", tensor_parallel=2)
    with senders() as sender, receivers(sender.address, *names, "g1.0"):
        sender.form([*names, "g1.0"])
        watch = StagedWatch(sender.address, names)
        assert watch.next(None, wait_s=0.0) is None
        for version in (V1, V2, V3):
            sender.publish(version, weights(version.step), keep=version == V2)
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(V2, keep=True)
        assert watch.next(V2, wait_s=DEADLINE_S) == StagedVersion(V3)
        assert watch.next(V3, wait_s=0.0) is None
        lonely = StagedWatch(sender.address, ["g1.0", "g2.0"])
        assert lonely.next(None, wait_s=0.0) is None


def test_a_version_that_the_watch_returned_waits_in_every_worker_until_it_is_taken() -> None:
    names = receiver_names("g0", tensor_parallel=2)
    with senders() as sender, receivers(sender.address, *names) as workers:
        sender.form(names)
        watch = StagedWatch(sender.address, names)
        sender.publish(V1, weights(1))
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(V1)
        for version in (V2, V3):
            sender.publish(version, weights(version.step))
        assert {worker.staged() for worker in workers} == {(StagedVersion(V1), StagedVersion(V3))}
        assert all(same_bits(worker.take(V1), weights(1)) for worker in workers)
        assert {worker.staged() for worker in workers} == {(StagedVersion(V3),)}


def test_a_held_version_is_let_go_when_another_one_is_returned() -> None:
    with senders() as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        watch = StagedWatch(sender.address, ["g0.0"])
        for version in (V1, V2, V3):
            sender.publish(version, weights(version.step))
            assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(version)
        sender.publish(Version(step=4), weights(4))
        assert receiver.staged() == (StagedVersion(V3), StagedVersion(Version(step=4)))


def test_a_version_that_one_worker_has_no_more_is_not_returned_and_the_watch_looks_again() -> None:
    names = receiver_names("g0", tensor_parallel=2)
    with senders() as sender, receivers(sender.address, *names) as (first, _):
        sender.form(names)
        watch = StagedWatch(sender.address, names)
        for version in (V1, V2):
            sender.publish(version, weights(version.step), keep=True)
        first.take(V1)
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(V2, keep=True)
        first.take(V2)
        assert watch.next(V1, wait_s=0.2) is None
        sender.publish(V3, weights(3))
        assert watch.next(V1, wait_s=DEADLINE_S) == StagedVersion(V3)


def test_a_version_is_held_while_the_next_one_is_on_its_way() -> None:
    with (
        senders(deadline_s=1.0, chunk_bytes=2**20) as sender,
        receivers(sender.address, "g0.0", deadline_s=1.0) as (receiver,),
        receiving_process(sender.address, "stopped.0") as stopped,
        ThreadPoolExecutor(max_workers=1) as thread,
    ):
        sender.form(["g0.0", "stopped.0"])
        sender.publish(V1, weights(1))
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)  # so that the broadcast cannot end
        store = connect(sender.address, DEADLINE_S)
        before = store.add(NUM_EVENTS_KEY, 0)
        published = thread.submit(sender.publish, V2, weights(2, num_values=2_000_000))
        while store.add(NUM_EVENTS_KEY, 0) == before:
            assert not published.done()
        assert StagedWatch(sender.address, ["g0.0"]).next(None, wait_s=DEADLINE_S) == StagedVersion(V1)
        assert not published.done()
        with pytest.raises(LostReceiversError):
            published.result()
        assert same_bits(receiver.take(V1), weights(1))


def test_a_kept_version_waits_at_the_sender_while_a_receiver_has_no_room_and_none_is_lost() -> None:
    with senders() as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        kept = [Version(step=step) for step in range(1, KEPT_MAX + 3)]
        for version in kept[:KEPT_MAX]:
            sender.publish(version, weights(version.step), keep=True)
        watch = StagedWatch(sender.address, ["g0.0"])
        with publishing(sender, kept[-2], weights(kept[-2].step), keep=True):
            assert len(receiver.staged()) == KEPT_MAX
            seen = [take_next(watch, receiver, None)]
        with publishing(sender, kept[-1], weights(kept[-1].step), keep=True):
            while len(seen) < len(kept):
                seen += [take_next(watch, receiver, seen[-1])]
                assert len(receiver.staged()) <= KEPT_MAX
        assert seen == kept


def test_a_sender_that_waited_for_room_in_vain_says_where_and_the_group_lives() -> None:
    with senders(patience_s=0.1) as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        for step in range(1, KEPT_MAX + 1):
            sender.publish(Version(step=step), weights(step), keep=True)
        over = Version(step=KEPT_MAX + 1)
        with pytest.raises(BroadcastError, match=rf"version {over}: for 0\.1 s no room at g0\.0, which keeps {KEPT_MAX} versions"):
            sender.publish(over, weights(over.step), keep=True)
        sender.publish(over, weights(over.step))
        assert receiver.staged()[-1] == StagedVersion(over)
        receiver.take(V1)
        sender.publish(Version(step=9), weights(9), keep=True)
        assert receiver.staged()[-1] == StagedVersion(Version(step=9), keep=True)


def test_a_group_can_be_formed_anew_while_the_sender_waits_for_room() -> None:
    with senders() as sender, receivers(sender.address, "full.0", "g0.0") as (_, receiver):
        sender.form(["full.0"])
        for step in range(1, KEPT_MAX + 1):
            sender.publish(Version(step=step), weights(step), keep=True)
        over = Version(step=KEPT_MAX + 1)
        with publishing(sender, over, weights(over.step), keep=True):
            sender.form(["g0.0"])
        assert receiver.staged() == (StagedVersion(over, keep=True),)


def test_a_receiver_that_has_stopped_keeps_no_sender_waiting() -> None:
    with senders(deadline_s=0.5) as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        for step in range(1, KEPT_MAX + 1):
            sender.publish(Version(step=step), weights(step), keep=True)
        receiver.close()
        with pytest.raises(LostReceiversError, match=r"g0\.0"):
            sender.publish(Version(step=9), weights(9), keep=True)
