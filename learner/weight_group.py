"""One broadcast group: the weight sender (rank 0) and its receivers, apart from the default process group.

Owns one `torch.distributed` process group, built directly on a store, and the deadline of everything that runs in it: a call ends within its
deadline or raises BroadcastError, and a group that raised once is of no further use. Called by the weight sender and the weight receiver;
knows no version, no digest, no Ray, no vLLM.
"""

import datetime
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

import torch
from torch import distributed

from rlvr.errors import BroadcastError

Backend = Literal["gloo", "nccl"]
SENDER_RANK = 0
NCCL_POLL_S = 0.0005
# An own error handling for this group alone: PyTorch's default ends the whole process when a collective is late, and its heartbeat monitor does
# so on its own account. Both are read when the group is built.
NCCL_ENVIRONMENT = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}


def seconds(value: float) -> datetime.timedelta:
    """A time-out for torch; never zero, which it reads as none."""
    return datetime.timedelta(seconds=max(value, 0.001))


def address_towards(host: str, port: int) -> str:
    """The address of this machine from which `host` is reached; nothing is sent."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def serve(host: str, port: int = 0, *, deadline_s: float) -> distributed.TCPStore:
    """A store that listens on `host` alone; 0 = a free port. A TCPStore by itself listens on every address. Raises OSError and torch's errors."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as listening:
        store = distributed.TCPStore(
            host,
            listening.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=seconds(deadline_s),
            master_listen_fd=listening.fileno(),
        )
        listening.detach()  # the store's own from now on
    return store


def connect(address: tuple[str, int], deadline_s: float) -> distributed.TCPStore:
    """A client of the sender's store. Raises BroadcastError when nobody answers."""
    try:
        return distributed.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=seconds(deadline_s))
    except RuntimeError as error:
        raise BroadcastError(f"no sender of weights at {address[0]}:{address[1]}: {first_line(error)}") from error


class WeightGroup:
    """A formed group. Not thread-safe: one thread per process drives it, so that every rank has one launch order."""

    def __init__(
        self,
        store: distributed.Store,
        *,
        epoch: int,
        rank: int,
        size: int,
        address: str,
        backend: Backend,
        deadline_s: float,
        device: torch.device | None,
    ) -> None:
        """Meet the other `size - 1` ranks of `epoch` on `store`. Raises BroadcastError when they do not come in time.

        device: the GPU of this rank, for nccl; threads start on GPU 0, so the caller has to know.
        """
        self._rank = rank
        self._device = device if backend == "nccl" else None
        self._staging: torch.Tensor | None = None
        prefixed = distributed.PrefixStore(f"group/{epoch}", store)
        try:
            if backend == "gloo":
                self._group = build_gloo(prefixed, rank, size, address, deadline_s)
            else:
                assert device is not None, "nccl needs a GPU on every rank"
                self._stream = torch.cuda.Stream(device)
                self._group = within(deadline_s, lambda: build_nccl(prefixed, rank, size, device, deadline_s))
        except (RuntimeError, ValueError, TimeoutError) as error:
            raise BroadcastError(f"epoch {epoch}: no group of {size} within {deadline_s:.1f} s: {first_line(error)}") from error

    def broadcast(self, chunk: torch.Tensor, *, ends_at: float) -> None:
        """Send (rank 0) or fill (the others) `chunk`, a contiguous tensor in host memory, before `time.monotonic()` is `ends_at`."""
        remaining = ends_at - time.monotonic()
        if remaining <= 0:
            raise BroadcastError("the broadcast did not end before its deadline")
        try:
            if self._device is None:
                self._launch(chunk, remaining).wait(seconds(remaining))
            else:
                self._broadcast_on(self._device, chunk, ends_at)
        except RuntimeError as error:
            raise BroadcastError(f"the broadcast broke: {first_line(error)}") from error

    def _launch(self, tensor: torch.Tensor, remaining: float) -> Any:
        options = distributed.BroadcastOptions()
        options.rootRank = SENDER_RANK
        options.timeout = seconds(remaining)
        return self._group.broadcast([tensor], options)

    def _broadcast_on(self, device: torch.device, chunk: torch.Tensor, ends_at: float) -> None:
        """NCCL: through one staging buffer on the device, on a stream of its own; the host polls, since a wait could not be given up."""
        if self._staging is None or self._staging.numel() < chunk.numel():
            self._staging = torch.empty(chunk.numel(), dtype=chunk.dtype, device=device)
        staging = self._staging[: chunk.numel()]
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            if self._rank == SENDER_RANK:
                staging.copy_(chunk)
            work = self._launch(staging, ends_at - time.monotonic())
            while not work.is_completed():
                if time.monotonic() > ends_at:
                    raise BroadcastError("the broadcast did not end before its deadline")
                time.sleep(NCCL_POLL_S)
            work.wait()  # raises what the collective met; the stream waits for it
            if self._rank != SENDER_RANK:
                chunk.copy_(staging)

    def abort(self) -> None:
        """Give the group up: connections close, and ranks that still wait for this one learn of it. A second call does nothing.

        gloo's own abort leaves the connections open; they close with the last reference, which an error's traceback must not keep.
        """
        group, self._group = self._group, None
        if group is not None:
            group.abort()


def build_gloo(store: distributed.Store, rank: int, size: int, address: str, deadline_s: float) -> Any:
    """A gloo group that speaks from `address`."""
    gloo: Any = distributed.ProcessGroupGloo  # torch's stubs know its options under other names
    options = gloo._Options()
    options._timeout = seconds(deadline_s)
    options._threads = 1
    options._devices = [gloo.create_device(hostname=address)]
    return gloo(store, rank, size, options)


def build_nccl(store: distributed.Store, rank: int, size: int, device: torch.device, deadline_s: float) -> Any:
    """An NCCL group whose communicator exists: built at the first broadcast, it would wait for a dead peer for ever."""
    nccl: Any = distributed.ProcessGroupNCCL
    options = nccl.Options()
    options._timeout = seconds(deadline_s)
    before = {name: os.environ.get(name) for name in NCCL_ENVIRONMENT}
    os.environ.update(NCCL_ENVIRONMENT)
    try:
        with torch.cuda.device(device):
            group = nccl(store, rank, size, options)
            group.eager_connect_single_device(device)
            return group
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def within(deadline_s: float, build: Callable[[], Any]) -> Any:
    """What `build` returns. Raises TimeoutError at the deadline; a build that nothing can interrupt goes on in a thread that is left behind."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(build())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            outcome.set_exception(error)

    threading.Thread(target=run, name="build-weight-group", daemon=True).start()
    return outcome.result(deadline_s)


def first_line(error: BaseException) -> str:
    """The first line of an error's text: torch appends a C++ stack."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
