"""Senders, receivers and weights for the laws of the broadcast: real process groups over gloo, and receivers in processes that can be killed."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from learner.broadcaster import Broadcaster, Membership
from learner.weight_group import connect
from learner.weight_protocol import staged_key
from learner.weight_receiver import WeightReceiver
from learner.weights import BroadcastReport, WeightSender
from rlvr.records import Version

V1, V2, V3 = Version(step=1), Version(step=2), Version(step=3)
DEADLINE_S = 2.0

Address = tuple[str, int]
Weights = dict[str, torch.Tensor]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["learner.weight_receiver"])


def weights(seed: int = 0, *, num_values: int = 1000) -> Weights:
    """Tensors of every awkward kind: large, scalar, empty, not contiguous, and bits that are no numbers."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.tensor([0x7FC1, -0x8000, 0x7F80, 0x0001, -0x0080], dtype=torch.int32).to(torch.int16)
    return {
        "model.embed.weight": torch.randn(num_values, 3, generator=generator).bfloat16(),
        "model.scale": torch.tensor(float(seed)).bfloat16(),
        "model.empty": torch.empty(0, 4, dtype=torch.bfloat16),
        "model.transposed": torch.randn(5, 7, generator=generator).bfloat16().t(),
        "model.odd": bits.view(torch.bfloat16),
    }


def same_bits(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name].contiguous().view(torch.int16), right[name].contiguous().view(torch.int16)) for name in left
    )


@contextmanager
def senders(*, deadline_s: float = DEADLINE_S, chunk_bytes: int = 512) -> Iterator[WeightSender]:
    sender = WeightSender("127.0.0.1", deadline_s=deadline_s, chunk_bytes=chunk_bytes)
    yield sender
    sender.close()


@contextmanager
def receivers(address: Address, *names: str, deadline_s: float = DEADLINE_S) -> Iterator[list[WeightReceiver]]:
    all_of_them = [WeightReceiver(address, name, deadline_s=deadline_s) for name in names]
    yield all_of_them
    for receiver in all_of_them:
        receiver.close()


class Broadcasting:
    """A broadcaster and all that it said."""

    def __init__(self, sender: WeightSender, **settings: Any) -> None:
        self.reports: list[BroadcastReport] = []
        self.memberships: list[Membership] = []
        self.sender = sender
        self.broadcaster = Broadcaster(sender, announce=self.reports.append, changed=self.memberships.append, **settings)

    @property
    def members(self) -> tuple[str, ...]:
        return self.memberships[-1].members if self.memberships else ()

    @property
    def lost(self) -> tuple[str, ...]:
        return tuple(name for membership in self.memberships for name in membership.lost)

    def gather(self, *names: str) -> None:
        """Want these, and wait until one group has all of them."""
        self.broadcaster.set_members(names)
        wait_until(lambda: set(self.members) == set(names))

    def publish(self, version: Version, tensors: Weights, *, keep: bool = False) -> None:
        """Publish and wait until it is done."""
        self.broadcaster.publish(version, tensors, keep=keep)
        self.broadcaster.finish()


@contextmanager
def broadcasting(*, deadline_s: float = DEADLINE_S, chunk_bytes: int = 512, **settings: Any) -> Iterator[Broadcasting]:
    with senders(deadline_s=deadline_s, chunk_bytes=chunk_bytes) as sender:
        broadcast = Broadcasting(sender, **settings)
        try:
            yield broadcast
        finally:
            broadcast.broadcaster.close()


def wait_until(is_so: Callable[[], bool], *, within_s: float = 30.0) -> None:
    ends_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < ends_at, f"not so within {within_s:g} s"
        time.sleep(0.01)


def num_staged(address: Address, name: str) -> int:
    """How many versions this receiver has reported as staged, where no watch takes note of them."""
    store = connect(address, DEADLINE_S)
    number = 0
    while store.check([staged_key(name, 1, number)]):
        number += 1
    return number


def receive_until_killed(address: Address, name: str, pipe: Connection) -> None:
    receiver = WeightReceiver(address, name, deadline_s=DEADLINE_S)
    pipe.send("receiving")
    pipe.recv()
    receiver.close()


@contextmanager
def receiving_process(address: Address, name: str) -> Iterator[BaseProcess]:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=receive_until_killed, args=(address, name, theirs))
    process.start()
    assert ours.recv() == "receiving"
    try:
        yield process
    finally:
        process.kill()
        process.join()
