"""Laws of what a watch returns and what receivers keep, with real process groups over gloo."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest
from broadcasts import DEADLINE_S, V1, V2, V3, processes, receivers, receiving_process, same_bits, senders, wait_until, weights

from learner.weight_group import connect
from learner.weight_protocol import NUM_EVENTS_KEY, StagedVersion, receiver_names
from learner.weight_watch import StagedWatch
from learner.weights import LostReceiversError, WeightSender
from rlvr.records import Version

pytestmark = pytest.mark.processes


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
        lonely = StagedWatch(sender.address, ["g1.0", "never.0"])
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


def test_a_version_that_is_passed_over_is_dropped_by_every_worker_and_takes_no_room() -> None:
    names = receiver_names("g0", tensor_parallel=2)
    with senders() as sender, receivers(sender.address, *names) as workers:
        sender.form(names)
        watch = StagedWatch(sender.address, names)
        for version in (V1, V2):
            sender.publish(version, weights(version.step), keep=True)
        assert sender.full(names) == names
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(V1, keep=True)
        watch.discard(StagedVersion(V1, keep=True))
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(V2, keep=True)
        assert {worker.staged() for worker in workers} == {(StagedVersion(V2, keep=True),)}
        wait_until(lambda: sender.full(names) == ())


def test_versions_of_a_newer_lineage_are_newer_whatever_their_step() -> None:
    before, after = Version(lineage=0, step=9), Version(lineage=1, step=4)
    with senders() as sender, receivers(sender.address, "g0.0") as (receiver,):
        sender.form(["g0.0"])
        watch = StagedWatch(sender.address, ["g0.0"])
        sender.publish(before, weights(9), keep=True)
        sender.publish(after, weights(4))
        assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(before, keep=True)
        assert watch.next(before, wait_s=DEADLINE_S) == StagedVersion(after)
        receiver.take(after)
        assert receiver.staged() == ()


def test_a_receiver_that_comes_again_begins_anew_with_a_watch_of_its_own() -> None:
    with senders() as sender:
        for step in (1, 2):
            with receivers(sender.address, "g0.0") as (receiver,):
                watch = StagedWatch(sender.address, ["g0.0"])
                sender.form(["g0.0"])
                sender.publish(Version(step=step), weights(step))
                assert watch.next(None, wait_s=DEADLINE_S) == StagedVersion(Version(step=step))
                assert same_bits(receiver.take(Version(step=step)), weights(step))


def test_a_watch_whose_sender_stands_still_has_nothing_and_goes_on_with_it() -> None:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=publish_when_told, args=(theirs,))
    process.start()
    address = ours.recv()
    with receivers(address, "g0.0", deadline_s=30.0):
        watch = StagedWatch(address, ["g0.0"])
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        started = time.monotonic()
        assert watch.next(None, wait_s=0.2) is None
        assert watch.next(None, wait_s=0.2) is None
        assert time.monotonic() - started < 10.0
        os.kill(process.pid, signal.SIGCONT)
        ours.send(["g0.0"])
        wait_until(lambda: watch.next(None, wait_s=0.5) == StagedVersion(V1))
        process.kill()
        process.join()


def publish_when_told(pipe: Connection) -> None:
    sender = WeightSender("127.0.0.1", deadline_s=30.0)
    pipe.send(sender.address)
    sender.form(pipe.recv())
    sender.publish(V1, weights(1))
    pipe.recv()
