"""The broadcast over NCCL, for a machine with two GPUs: NCCL refuses two ranks on one."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest
import torch

from learner.weight_codec import digest
from learner.weight_receiver import WeightReceiver
from learner.weights import LostReceiversError, WeightSender
from rlvr.errors import BroadcastError
from rlvr.records import Version

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL between two processes needs two GPUs")]

DEADLINE_S = 20.0


def receive(address: tuple[str, int], name: str, pipe: Connection) -> None:
    """Answer each version that is asked for with the digest of what was staged."""
    receiver = WeightReceiver(address, name, backend="nccl", deadline_s=DEADLINE_S, device=torch.device("cuda", 1))
    pipe.send("receiving")
    while (version := pipe.recv()) is not None:
        pipe.send(digest(receiver.take(version)))
    receiver.close()


@contextmanager
def receiving_process(address: tuple[str, int], name: str) -> Iterator[tuple[BaseProcess, Connection]]:
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=receive, args=(address, name, theirs))
    process.start()
    assert ours.recv() == "receiving"
    yield process, ours
    process.kill()
    process.join()


def weights() -> dict[str, torch.Tensor]:
    return {"a": torch.randn(50_000_000).bfloat16(), "b": torch.tensor(1.5).bfloat16()}


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
def test_nccl_brings_every_bit_and_a_dead_receiver_ends_neither_the_sender_nor_the_next_group(death: signal.Signals) -> None:
    sent = weights()
    sender = WeightSender("127.0.0.1", backend="nccl", deadline_s=DEADLINE_S)
    with receiving_process(sender.address, "g0.0") as (process, pipe):
        sender.form(["g0.0"])
        report = sender.publish(Version(step=1), sent)
        pipe.send(Version(step=1))
        assert pipe.recv() == report.digest == digest(sent)
        assert process.pid is not None
        os.kill(process.pid, death)
        started = time.monotonic()
        with pytest.raises(BroadcastError) as caught:
            sender.publish(Version(step=2), sent)
        assert isinstance(caught.value, LostReceiversError)
        assert time.monotonic() - started < DEADLINE_S + 10.0
    with receiving_process(sender.address, "g0#2.0") as (_, pipe):
        sender.form(["g0#2.0"])
        sender.publish(Version(step=3), sent)
        pipe.send(Version(step=3))
        assert pipe.recv() == digest(sent)
    sender.close()
