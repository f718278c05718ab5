"""The learner's default process group: joined at the start of a rank's life, left at its end.

Owns the choice of backend and every address and deadline of the default group. Called by the learner actors and by tests; knows no model.
The weight broadcast has a group of its own (`learner.weights`) and never touches this one.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from learner.interfaces import interface_of
from learner.weight_group import address_towards, serve
from rlvr.errors import LearnerError

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_chosen: list[str] = []
"""The interface that this module, and not the user, has named to gloo."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""On cuda the small facts that ranks tell each other (statistics, checkpoint plans) still travel on the CPU."""


def open_store(address: str, *, port: int = 0, timeout_s: float = 600.0) -> dist.TCPStore:
    """Serve the group's store on rank 0; `.port` says where, so that port 0 picks a free one without a race.

    Raises LearnerError when the address cannot be bound.
    """
    try:
        return serve(address, port, deadline_s=timeout_s)
    except (OSError, RuntimeError, dist.DistError) as error:
        raise LearnerError(f"the learner's store cannot be served on {address}:{port}: {error}") from error


def join(
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    device: str,
    *,
    store: dist.TCPStore | None = None,
    timeout_s: float = 600.0,
) -> None:
    """Join the default group; returns when every rank is there.

    device: "cpu" or "cuda". store: what `open_store` gave, on rank 0; left out there, one is opened on master_port. timeout_s bounds the meeting and
    each later collective. Raises LearnerError when a rank does not come in time; another try then needs a fresh process, since torch numbers the
    groups that a process ever started and ranks only meet under the same number.
    """
    assert device in BACKENDS
    assert 0 <= rank < world_size
    deadline = timedelta(seconds=timeout_s)
    if store is None and rank == 0:
        store = open_store(master_addr, port=master_port, timeout_s=timeout_s)
    try:
        if store is None:
            store = dist.TCPStore(master_addr, master_port, is_master=False, timeout=deadline)
        _speak_towards(master_addr, store.port)
        if device == "cuda":
            torch.cuda.set_device(rank % torch.cuda.device_count())
        dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=world_size, timeout=deadline)
    except (RuntimeError, OSError, dist.DistError) as error:
        raise LearnerError(f"rank {rank} of {world_size} could not join the learner's group at {master_addr}:{master_port}: {error}") from error


def beside(*, timeout_s: float = 3600.0) -> dist.ProcessGroup:
    """One more group of all ranks, on the CPU, so that what a background thread tells the others never meets training's collectives. Collective.

    timeout_s: of each collective; ranks come to it when they have written gigabytes. Training's own group notices a rank that died much sooner.
    """
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert group is not None
    return group


def leave() -> None:
    """Leave the default group; nothing happens where none was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if _chosen:
        os.environ.pop(GLOO_INTERFACE, None)
        _chosen.clear()


def _speak_towards(address: str, port: int) -> None:
    """Let gloo use the interface that leads to the other ranks, unless the user named one.

    By itself it takes the address that the host's own name stands for, which many a host has as 127.0.1.1: then no other host finds it.
    """
    if GLOO_INTERFACE in os.environ:
        return
    name = interface_of(address_towards(address, port))
    if name is not None:
        os.environ[GLOO_INTERFACE] = name
        _chosen.append(name)
