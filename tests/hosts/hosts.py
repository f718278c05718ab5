"""Several hosts on one machine, for tests: each with an address, a name, processes and files of its own, joined by a switch whose ports can be cut.

A host is a network namespace on a bridge that lives in a namespace of its own. What runs on it is a *pod*: a Ray node as process 1 of a pid
namespace, with mounts of its own (/dev/shm, /tmp/ray, /etc/hosts, and nothing where the runs of other hosts lie), so that whoever ends process 1
ends everything, and so that process ids mean nothing elsewhere. Its name resolves to 127.0.1.1, as on many a Linux. Needs root and namespaces.
"""

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
NETWORK = "10.77"
GATEWAY = f"{NETWORK}.255.254"
"""Nobody has it; the route to it is how a host finds its own address, as it does where there is an internet."""
PORT = 6379
OBJECT_STORE_BYTES = 100 * 2**20
CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
PREFIX = "firesteel"
OWN_NAMESPACES = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
ENDS_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc", "unshare", "nsenter", "setpriv") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found (iproute2, util-linux)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    words = ("ip", "netns", "exec", probe, *OWN_NAMESPACES, "true")
    try:
        tried = [("ip", "netns", "add", probe), ("ip", "-n", probe, "link", "add", "br0", "type", "bridge"), words]
        for command in tried:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"`{shlex.join(command)}` fails: {done.stderr.strip()}"
    finally:
        subprocess.run(("ip", "netns", "delete", probe), capture_output=True, check=False)
    return None


def why_no_wire() -> str | None:
    """Why there can be no link that loses and delays; None where there can."""
    return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "/dev/net/tun cannot be opened"


def ip(*words: str) -> str:
    return subprocess.run(("ip", *words), capture_output=True, text=True, check=True).stdout


def until(condition: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """The first true answer of `condition`, asked again and again."""
    ends_at = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < ends_at, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)
    return answer


class Network:
    """A switch and the hosts at it. hidden: a folder that only hosts that ask for it see. A context manager: nothing is left when it ends."""

    def __init__(self, folder: Path, *, hidden: Path) -> None:
        """folder: for logs and small files; short, since sockets lie under it."""
        self.folder = folder
        self.hidden = hidden
        self.hosts: list[Host] = []
        self.token = folder / "token"
        self._name = f"{PREFIX}-{os.getpid()}-switch"

    def __enter__(self) -> "Network":
        remove_stale_namespaces()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hidden.mkdir(parents=True, exist_ok=True)
        self.token.write_text(os.urandom(24).hex())
        ip("netns", "add", self._name)
        ip("-n", self._name, "link", "add", "br0", "type", "bridge")
        ip("-n", self._name, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as ends:  # each of them, whatever becomes of another
            ends.callback(ip, "netns", "delete", self._name)
            for host in self.hosts:
                ends.callback(host.remove)
                ends.callback(host.kill)

    def host(self, name: str, *, sees_runs: bool = False, has_wire: bool = False) -> "Host":
        """Another host. has_wire: its link is a program that can lose and delay (`Host.spoil`)."""
        made = Host(self, name, number=len(self.hosts) + 1, sees_runs=sees_runs, switch=self._name, has_wire=has_wire)
        self.hosts.append(made)
        made.connect()
        return made


class Host:
    """One host: its link, and at most one pod at a time."""

    def __init__(self, network: Network, name: str, *, number: int, sees_runs: bool, switch: str, has_wire: bool) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}.{number}"
        self.pod: subprocess.Popen[bytes] | None = None
        self._network = network
        self._sees_runs = sees_runs
        self._has_wire = has_wire
        self._wire: subprocess.Popen[str] | None = None
        self._switch = switch
        self._port = f"port{number}"
        self._namespace = f"{PREFIX}-{os.getpid()}-{number}"
        self._folder = network.folder / name
        self._pods = 0

    def connect(self) -> None:
        ip("netns", "add", self._namespace)
        if self._has_wire:
            self._lay_wire()
        else:
            ip("-n", self._switch, "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        ip("-n", self._switch, "link", "set", self._port, "master", "br0")
        ip("-n", self._switch, "link", "set", self._port, "up")
        for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
            ip("-n", self._namespace, *words)
        ip("-n", self._namespace, "address", "add", f"{self.address}/16", "dev", "eth0")
        ip("-n", self._namespace, "route", "add", "default", "via", GATEWAY)

    # --- its link

    def cut(self) -> None:
        """Nothing comes through any more, what waits to be sent included."""
        ip("-n", self._switch, "link", "set", self._port, "down")

    def heal(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "up")

    def throttle(self, kbit: int) -> None:
        """What is sent to it comes at this rate."""
        words = (
            "tc",
            "-n",
            self._switch,
            "qdisc",
            "replace",
            "dev",
            self._port,
            "root",
            "tbf",
            "rate",
            f"{kbit}kbit",
            "burst",
            "16kb",
            "limit",
            "4mb",
        )
        subprocess.run(words, capture_output=True, text=True, check=True)

    def unthrottle(self) -> None:
        """Without effect where it is not throttled."""
        subprocess.run(("tc", "-n", self._switch, "qdisc", "delete", "dev", self._port, "root"), capture_output=True, check=False)

    def bytes_received(self) -> int:
        """What the switch has sent to it so far."""
        return int(json.loads(ip("-n", self._switch, "-s", "-j", "link", "show", "dev", self._port))[0]["stats64"]["tx"]["bytes"])

    def spoil(self, *, loss: float, delay_s: float) -> None:
        """From now on the link loses this share of the frames and holds each for so long, both ways."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"{loss} {delay_s}\n")
        self._wire.stdin.flush()

    # --- its pod

    def start_ray(
        self,
        *,
        head: "Host | None",
        role: str,
        cpus: int,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a Ray node as its pod. head: of the cluster, which is waited for; None = this is the head. labels: beside that of its role."""
        if head is not None:
            until(head.answers, within_s=ENDS_S * 3, what=f"a Ray head on {head.name}")
        place = ["--head", f"--port={PORT}", f"--node-ip-address={self.address}", "--include-dashboard=false"]
        joining = [] if head is None else [f"--address={head.ray_address}"]
        labelled = ",".join(f"{name}={value}" for name, value in {"rlvr.io/role": role, **(labels or {})}.items())
        words = [RAY, "start", *(joining or place), f"--num-cpus={cpus}", f"--labels={labelled}"]
        words += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", "--block"]
        self._pods += 1
        state = self._folder / f"pod-{self._pods}"
        (state / "ray").mkdir(parents=True)
        (state / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        with (state / "log").open("wb") as log:
            self.pod = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._namespace, *OWN_NAMESPACES, "sh", "-c", self._boot(state, words)],
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def _boot(self, state: Path, words: Sequence[str]) -> str:
        lines = [
            "set -e",
            f"hostname {self.name}",
            f"mount --bind {shlex.quote(str(state / 'hosts'))} /etc/hosts",
            "mount -t tmpfs -o size=1g tmpfs /dev/shm",
            "mkdir -p /tmp/ray",
            f"mount --bind {shlex.quote(str(state / 'ray'))} /tmp/ray",
        ]
        if not self._sees_runs:
            lines.append(f"mount -t tmpfs -o size=16m tmpfs {shlex.quote(str(self._network.hidden))}")
        return "\n".join([*lines, f"cd {shlex.quote(str(ROOT))}", f"exec {shlex.join(words)}"])

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return own | {
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._network.token),
        }

    @property
    def ray_address(self) -> str:
        """Of the cluster whose head this is."""
        return f"{self.address}:{PORT}"

    @property
    def first_process(self) -> int:
        """Process 1 of the pod, as this machine counts."""
        assert self.pod is not None
        children = Path(f"/proc/{self.pod.pid}/task/{self.pod.pid}/children")
        return int(until(lambda: children.read_text().split(), within_s=ENDS_S, what=f"{self.name} has a process 1")[0])

    def command(self, *words: str) -> list[str]:
        """The words that run a command in the pod, in the root of the project."""
        enter = ["nsenter", f"--target={self.first_process}", "--mount", "--uts", "--net", "--pid"]
        return [*enter, "sh", "-c", f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(words)}"]

    def answers(self) -> bool:
        """Whether somebody listens at Ray's port."""
        with self.network():
            try:
                socket.create_connection((self.address, PORT), timeout=1.0).close()
            except OSError:
                return False
            return True

    def terminate(self) -> None:
        """SIGTERM to the Ray node, as when a pod is deleted or a spot machine goes."""
        os.kill(self.first_process, signal.SIGTERM)

    def has_ended(self) -> bool:
        return self.pod is None or self.pod.poll() is not None

    def kill(self) -> None:
        """The pod is gone at once, and every process of it."""
        if self.pod is not None:
            self.pod.kill()
            self.pod.wait()
            until(lambda: not self.processes(), within_s=ENDS_S, what=f"{self.name} has no process any more")
            self.pod = None

    def processes(self) -> list[int]:
        """Everything that runs on this host, as this machine counts."""
        return [int(pid) for pid in ip("netns", "pids", self._namespace).split()]

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread's new sockets are this host's."""
        with open("/proc/thread-self/ns/net") as home, (NAMESPACES / self._namespace).open() as there:
            enter_network(there.fileno())
            try:
                yield
            finally:
                enter_network(home.fileno())

    def remove(self) -> None:
        if self._wire is not None:
            self._wire.kill()
            self._wire.communicate()  # closes its pipes
        ip("netns", "delete", self._namespace)

    def _lay_wire(self) -> None:
        words = [sys.executable, str(Path(__file__).with_name("wire.py"))]
        words += [str(NAMESPACES / self._namespace), "eth0", str(NAMESPACES / self._switch), self._port]
        self._wire = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline() == "laid\n", "the wire could not be laid"


def enter_network(namespace: int) -> None:
    """This thread is in that network from now on."""
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def remove_stale_namespaces() -> None:
    """Those of test processes that were killed; their processes have gone with them."""
    for path in NAMESPACES.glob(f"{PREFIX}-*-*") if NAMESPACES.is_dir() else ():
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            subprocess.run(("ip", "netns", "delete", path.name), capture_output=True, check=False)
