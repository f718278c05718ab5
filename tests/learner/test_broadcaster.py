"""Laws of a publication to receivers that come, go, die and sleep; real process groups over gloo."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess

import pytest
import torch
from broadcasts import (
    V1,
    V2,
    V3,
    Broadcasting,
    broadcasting,
    num_staged,
    receivers,
    receiving_process,
    same_bits,
    senders,
    wait_until,
    weights,
)

from learner.broadcaster import Broadcaster
from learner.weight_codec import digest
from learner.weight_group import connect
from learner.weight_protocol import KEPT_MAX, NUM_EVENTS_KEY, StagedVersion
from learner.weight_receiver import WeightReceiver
from learner.weight_watch import StagedWatch
from rlvr.errors import BroadcastError, StoreError
from rlvr.records import Version

pytestmark = pytest.mark.processes

LARGE = weights(2, num_values=2_000_000)  # more than sockets buffer: with one that does not read, the broadcast is stuck in the middle


def stop(process: BaseProcess) -> int:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    return process.pid


def start_stuck(broadcast: Broadcasting, version: Version) -> None:
    """Publish LARGE to a group with a stopped member; return when the broadcast is under way."""
    store = connect(broadcast.sender.address, 30.0)
    before = store.add(NUM_EVENTS_KEY, 0)
    broadcast.broadcaster.publish(version, LARGE, keep=False)
    wait_until(lambda: store.add(NUM_EVENTS_KEY, 0) > before)


def test_a_version_for_nobody_is_published_and_the_first_joiner_gets_it() -> None:
    with broadcasting() as broadcast:
        broadcast.publish(V1, weights(1), keep=True)
        assert [report.receivers for report in broadcast.reports] == [()]
        with receivers(broadcast.sender.address, "g0.0") as (receiver,):
            broadcast.gather("g0.0")
            wait_until(lambda: receiver.staged() == (StagedVersion(V1, keep=True),))
            wait_until(lambda: len(broadcast.reports) == 2)
            assert [(report.receivers, report.is_repeat) for report in broadcast.reports] == [((), False), (("g0.0",), True)]
            assert same_bits(receiver.take(V1), weights(1))


def test_a_joiner_gets_the_newest_version_at_once_and_who_has_it_stages_nothing() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "old.0") as (old,):
        broadcast.gather("old.0")
        broadcast.publish(V1, weights(1))
        with receivers(broadcast.sender.address, "new.0") as (new,):
            broadcast.gather("old.0", "new.0")
            wait_until(lambda: new.staged() == (StagedVersion(V1),))
            wait_until(lambda: len(broadcast.reports) == 2)
            assert broadcast.reports[-1].is_repeat
            assert num_staged(broadcast.sender.address, "old.0") == 1
            broadcast.publish(V2, weights(2))
            assert old.staged() == new.staged() == (StagedVersion(V2),)
            assert broadcast.lost == ()


def test_a_receiver_that_comes_again_under_its_name_is_in_a_new_group_at_once() -> None:
    with broadcasting() as broadcast:
        with receivers(broadcast.sender.address, "g0.0"):
            broadcast.gather("g0.0")
            broadcast.publish(V1, weights(1))
        with receivers(broadcast.sender.address, "g0.0") as (again,):
            wait_until(lambda: again.staged() == (StagedVersion(V1),))


def test_a_receiver_that_is_wanted_before_it_comes_holds_nobody_up() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "g0.0") as (receiver,):
        broadcast.broadcaster.set_members(["g0.0", "late.0"])
        wait_until(lambda: broadcast.members == ("g0.0",))
        broadcast.publish(V1, weights(1))
        assert receiver.staged() == (StagedVersion(V1),)
        with receivers(broadcast.sender.address, "late.0") as (late,):
            wait_until(lambda: late.staged() == (StagedVersion(V1),))
            assert broadcast.lost == ()


def test_a_receiver_that_is_not_wanted_any_more_is_not_lost_and_gets_nothing() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "g0.0", "g1.0") as (stays, leaves):
        broadcast.gather("g0.0", "g1.0")
        broadcast.gather("g0.0")
        broadcast.publish(V1, weights(1))
        assert (stays.staged(), leaves.staged()) == ((StagedVersion(V1),), ())
        assert broadcast.lost == ()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
def test_the_living_get_the_version_when_one_dies_in_mid_broadcast(death: signal.Signals) -> None:
    with (
        broadcasting(chunk_bytes=2**20) as broadcast,
        receivers(broadcast.sender.address, "g0.0", "g1.0") as living,
        receiving_process(broadcast.sender.address, "dead.0") as process,
    ):
        broadcast.gather("g0.0", "dead.0", "g1.0")
        broadcast.publish(V1, weights(1))
        pid = stop(process)
        start_stuck(broadcast, V2)
        os.kill(pid, death)
        broadcast.broadcaster.finish()
        assert broadcast.reports[-1].receivers == ("g0.0", "g1.0")
        assert broadcast.memberships[-1].lost == ("dead.0",)
        assert all(same_bits(receiver.take(V2), LARGE) for receiver in living)
        assert [num_staged(broadcast.sender.address, name) for name in ("g0.0", "g1.0")] == [2, 2]
        broadcast.publish(V3, weights(3))
        assert all(receiver.staged() == (StagedVersion(V3),) for receiver in living)


def test_a_receiver_that_slept_is_taken_in_again_and_stages_nothing_twice() -> None:
    with (
        broadcasting(chunk_bytes=2**20) as broadcast,
        receivers(broadcast.sender.address, "g0.0") as (receiver,),
        receiving_process(broadcast.sender.address, "sleeper.0") as process,
    ):
        broadcast.gather("g0.0", "sleeper.0")
        broadcast.publish(V1, weights(1))
        pid = stop(process)
        start_stuck(broadcast, V2)
        broadcast.broadcaster.finish()
        broadcast.publish(V3, weights(3))
        assert (broadcast.members, broadcast.lost) == (("g0.0",), ("sleeper.0",))
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: set(broadcast.members) == {"g0.0", "sleeper.0"})
        wait_until(lambda: broadcast.reports[-1].is_repeat)
        broadcast.publish(Version(step=4), weights(4))
        watch = StagedWatch(broadcast.sender.address, ["sleeper.0"])
        assert watch.next(V3, wait_s=30.0) == StagedVersion(Version(step=4))
        assert num_staged(broadcast.sender.address, "g0.0") == 4
        assert receiver.staged()[-1] == StagedVersion(Version(step=4))


def test_a_receiver_that_dies_between_broadcasts_costs_no_deadline() -> None:
    with (
        broadcasting(deadline_s=600.0) as broadcast,
        receivers(broadcast.sender.address, "g0.0", deadline_s=600.0) as (receiver,),
        receiving_process(broadcast.sender.address, "dead.0") as process,
    ):
        broadcast.gather("g0.0", "dead.0")
        stop(process)
        wait_until(lambda: broadcast.members == ("g0.0",))
        assert broadcast.lost == ("dead.0",)
        broadcast.publish(V1, weights(1))
        assert receiver.staged() == (StagedVersion(V1),)


def test_a_joiner_that_comes_in_mid_broadcast_gets_that_version() -> None:
    with (
        broadcasting(chunk_bytes=2**20) as broadcast,
        receivers(broadcast.sender.address, "g0.0", "joiner.0") as (receiver, joiner),
        receiving_process(broadcast.sender.address, "stopped.0") as process,
    ):
        broadcast.gather("g0.0", "stopped.0")
        stop(process)
        start_stuck(broadcast, V2)
        broadcast.broadcaster.set_members(["g0.0", "stopped.0", "joiner.0"])
        broadcast.broadcaster.finish()
        wait_until(lambda: joiner.staged() == receiver.staged() == (StagedVersion(V2),))
        assert same_bits(joiner.take(V2), LARGE)


def test_receivers_of_a_sender_that_died_join_the_next_one_whose_lineage_is_newer() -> None:
    with receivers_of_a_dead_sender() as receiver:
        assert receiver.staged() == (StagedVersion(Version(step=7)),)
        started = time.monotonic()
        receiver.close()
        assert time.monotonic() - started < 10.0
    rolled_back = Version(lineage=1, step=5)
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "g0.0") as (again,):
        broadcast.broadcaster.publish(rolled_back, weights(5), keep=False)
        broadcast.gather("g0.0")
        wait_until(lambda: again.staged() == (StagedVersion(rolled_back),))


class receivers_of_a_dead_sender:  # noqa: N801 - reads as the context manager that it is
    """A receiver with version 7, whose sender goes."""

    def __enter__(self) -> WeightReceiver:
        with broadcasting() as broadcast:
            self._receiver = WeightReceiver(broadcast.sender.address, "g0.0", deadline_s=600.0)
            broadcast.gather("g0.0")
            broadcast.publish(Version(step=7), weights(7))
        del broadcast
        return self._receiver

    def __exit__(self, *_: object) -> None:
        self._receiver.close()


def test_closing_a_receiver_waits_for_no_deadline_of_a_broadcast_that_is_stuck() -> None:
    with (
        broadcasting(deadline_s=5.0, chunk_bytes=2**20) as broadcast,
        receivers(broadcast.sender.address, "g0.0", deadline_s=600.0) as (receiver,),
        receiving_process(broadcast.sender.address, "stopped.0") as process,
    ):
        broadcast.gather("stopped.0", "g0.0")
        stop(process)
        start_stuck(broadcast, V2)
        receiver.close()
        assert broadcast.reports == []
        broadcast.broadcaster.set_members([])
        broadcast.broadcaster.finish()
        assert receiver.staged() == ()


def test_a_kept_version_waits_while_a_receiver_has_no_room_and_none_is_lost() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "g0.0") as (receiver,):
        broadcast.gather("g0.0")
        kept = [Version(step=step) for step in range(1, KEPT_MAX + 3)]
        watch = StagedWatch(broadcast.sender.address, ["g0.0"])
        seen: list[Version] = []
        with ThreadPoolExecutor(max_workers=1) as learner:
            published = learner.submit(lambda: [broadcast.publish(version, weights(version.step), keep=True) for version in kept])
            while len(seen) < len(kept):
                staged = watch.next(seen[-1] if seen else None, wait_s=10.0)
                assert staged is not None
                assert len(receiver.staged()) <= KEPT_MAX
                assert same_bits(receiver.take(staged.version), weights(staged.version.step))
                seen.append(staged.version)
            published.result()
        assert seen == kept


def fill(broadcast: Broadcasting) -> Version:
    """Publish as many kept versions as a receiver may keep; return the next one."""
    for step in range(1, KEPT_MAX + 1):
        broadcast.publish(Version(step=step), weights(step), keep=True)
    return Version(step=KEPT_MAX + 1)


def test_who_waited_for_room_in_vain_says_where_and_the_group_lives() -> None:
    with broadcasting(patience_s=0.1) as broadcast, receivers(broadcast.sender.address, "g0.0") as (receiver,):
        broadcast.gather("g0.0")
        over = fill(broadcast)
        with pytest.raises(BroadcastError, match=rf"version {over}: for 0\.1 s no room at g0\.0, which keeps {KEPT_MAX} versions"):
            broadcast.publish(over, weights(over.step), keep=True)
        broadcast.publish(over, weights(over.step))
        assert receiver.staged()[-1] == StagedVersion(over)


def test_a_receiver_without_room_that_dies_keeps_no_version_waiting() -> None:
    with (
        broadcasting() as broadcast,
        receivers(broadcast.sender.address, "g0.0") as (receiver,),
        receiving_process(broadcast.sender.address, "full.0") as process,
    ):
        broadcast.gather("full.0", "g0.0")
        over = fill(broadcast)
        broadcast.broadcaster.publish(over, weights(over.step), keep=True)
        stop(process)
        receiver.take(Version(step=KEPT_MAX))
        broadcast.broadcaster.finish()
        assert receiver.staged() == (StagedVersion(over, keep=True),)
        assert broadcast.lost == ("full.0",)


def test_a_joiner_waits_for_no_room_of_others() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "full.0", "joiner.0") as (_, joiner):
        broadcast.gather("full.0")
        over = fill(broadcast)
        broadcast.gather("full.0", "joiner.0")
        wait_until(lambda: joiner.staged() == (StagedVersion(Version(step=over.step - 1), keep=True),))


def test_closing_ends_every_wait() -> None:
    with broadcasting() as broadcast, receivers(broadcast.sender.address, "g0.0"):
        broadcast.gather("g0.0")
        over = fill(broadcast)
        broadcast.broadcaster.publish(over, weights(over.step), keep=True)
        waiting = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as learner:

            def wait() -> None:
                waiting.set()
                broadcast.broadcaster.publish(Version(step=99), weights(99), keep=False)

            published = learner.submit(wait)
            waiting.wait()
            broadcast.broadcaster.close()
            with pytest.raises(BroadcastError, match="the broadcaster is closed"):
                published.result(timeout=30.0)
        with pytest.raises(BroadcastError, match="the broadcaster is closed"):
            broadcast.broadcaster.publish(Version(step=99), weights(99), keep=False)


def test_each_version_is_logged_once_and_a_log_that_fails_fails_the_next_publication() -> None:
    logged: list[tuple[Version, str, bool]] = []

    def log(version: Version, tensors: Mapping[str, torch.Tensor], bits: str, keep: bool) -> None:
        assert digest(tensors) == bits
        logged.append((version, bits, keep))
        if version == V2:
            raise StoreError("the disk is full")

    with broadcasting(log=log) as broadcast, receivers(broadcast.sender.address, "g0.0", "g1.0"):
        broadcast.gather("g0.0")
        broadcast.publish(V1, weights(1), keep=True)
        broadcast.gather("g0.0", "g1.0")
        wait_until(lambda: broadcast.reports[-1].is_repeat)
        broadcast.broadcaster.publish(V2, weights(2), keep=False)
        with pytest.raises(StoreError, match="the disk is full"):
            broadcast.broadcaster.publish(V3, weights(3), keep=False)
        broadcast.publish(V3, weights(3))
        assert logged == [(V1, digest(weights(1)), True), (V2, digest(weights(2)), False), (V3, digest(weights(3)), False)]


def test_only_bf16_in_host_memory_is_published_and_the_caller_hears_it_at_once() -> None:
    with senders() as sender:
        broadcaster = Broadcaster(sender, announce=lambda _: None, changed=lambda _: None)
        with pytest.raises(ValueError, match=r"model\.x: published weights are bfloat16 in host memory, got torch\.float32"):
            broadcaster.publish(V1, {"model.x": torch.zeros(2)}, keep=False)
        broadcaster.close()
