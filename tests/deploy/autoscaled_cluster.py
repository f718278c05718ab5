"""A Ray cluster of its own with the real autoscaler v2, whose groups are those of the manifests.

Owns the head, the autoscaler's configuration, and the end of every process of the cluster. The groups come from the RayJob of deploy/base through
Ray's own translation for KubeRay; what a test may change is how many CPUs and GPUs a node has and how long it may idle. `Observer` is a driver that
asks for actors and sees nodes.
"""

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hosts import until
from manifest_groups import groups, ray_cluster
from prometheus_process import free_port
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from actors.run import orphan_guard

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
OBJECT_STORE_BYTES = 100 * 2**20
BOOTS_S = 60.0


def autoscaling_config(*, idle_s: float, generators: tuple[int, int], resources: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, Any]:
    """What KubeRay's autoscaler would read of deploy/base, but for three things.

    idle_s: instead of every group's. generators: the least and the most nodes of that group, as `deploy/scale.sh` sets them. resources: by group,
    instead of the manifest's.
    """
    config = _derive_autoscaling_config_from_ray_cr(ray_cluster())
    kinds = config["available_node_types"]
    for name, kind in kinds.items():
        kind["idle_timeout_s"] = idle_s
        kind["resources"] = dict((resources or {}).get(name, kind["resources"]))
    kinds["generators"].update(min_workers=generators[0], max_workers=generators[1])
    kinds[FAKE_HEAD_NODE_TYPE] = kinds.pop(config["head_node_type"])
    return {**config, "head_node_type": FAKE_HEAD_NODE_TYPE, "idle_timeout_minutes": idle_s / 60}


NOT_OURS = ("RAY_", "VLLM_", "CUDA_VISIBLE_DEVICES")
"""Names, or their beginnings, that other tests leave in this process's environment: an engine on a CPU hides all GPUs, and a node that is to have
four logical ones does not start then."""


class AutoscaledCluster:
    """One head and the nodes that its autoscaler starts. A context manager: nothing is left when it ends, nor when this process is killed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rlvr-"))  # short: sockets lie under it
        self.ray_address = f"127.0.0.1:{free_port()}"
        self._config = copy.deepcopy(dict(config))
        self._config_file = self.folder / "autoscaler.json"
        self._head: subprocess.Popen[bytes]

    def __enter__(self) -> "AutoscaledCluster":
        (self.folder / "token").write_text(os.urandom(24).hex())
        self._write_config()
        self._guard = orphan_guard.start(uuid.uuid4().hex)
        head = self._config["available_node_types"][FAKE_HEAD_NODE_TYPE]
        words = [*node_command(), "--head", f"--port={self.ray_address.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
        words += [f"--temp-dir={self.folder}", f"--autoscaling-config={self._config_file}", "--include-dashboard=false"]
        words += [f"--num-cpus={int(head['resources']['CPU'])}", f"--labels={','.join(f'{key}={value}' for key, value in head['labels'].items())}"]
        identity = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID, "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
        with (self.folder / "head.log").open("wb") as log:
            self._head = subprocess.Popen(
                words, env=self.environment() | identity, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, within_s=BOOTS_S, what="a Ray head")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._head.kill()
        self._guard.close()
        self._head.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Of whatever belongs to this cluster."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        return own | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{HERE}:{ROOT}",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": "0",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    def bound_generators(self, least: int, most: int) -> None:
        """Other bounds of that group, as `deploy/scale.sh` sets them in a live cluster; the autoscaler reads them every time it looks."""
        self._config["available_node_types"]["generators"].update(min_workers=least, max_workers=most)
        self._write_config()

    def command(self, *words: str) -> list[str]:
        """The words that run a command where the head is."""
        return list(words)

    def network(self) -> contextlib.AbstractContextManager[None]:
        """In which the head's addresses are reached."""
        return contextlib.nullcontext()

    def node_process(self, node: str) -> int:
        """The first process of a node, as a pod has one."""
        wanted = f"RAY_CLOUD_INSTANCE_ID={node}".encode()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if folder.name.isdigit() and b"--block" in words and wanted in (folder / "environ").read_bytes().split(b"\0"):
                    return int(folder.name)
        raise AssertionError(f"node {node} has no process")

    def terminate(self, node: str) -> None:
        """SIGTERM to a node, as when its pod is deleted or its spot machine goes."""
        os.kill(self.node_process(node), signal.SIGTERM)

    def logs(self) -> str:
        """The end of what the head and the autoscaler have said, for a failure."""
        files = [self.folder / "head.log", *self.folder.glob("session_latest/logs/monitor.*"), *self.folder.glob("*-*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    def _write_config(self) -> None:
        fresh = self._config_file.with_suffix(".new")
        fresh.write_text(json.dumps({**self._config, "provider": self._provider()}))
        fresh.replace(self._config_file)

    def _provider(self) -> dict[str, Any]:
        return {
            **self._config["provider"],
            "type": "external",
            "module": "pod_provider.PodProvider",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "gcs_address": self.ray_address,
            "node_command": node_command(),
            "environments": {group.name: group.environment for group in groups().values()},
            "folder": str(self.folder),
        }

    def _answers(self) -> bool:
        assert self._head.poll() is None, self.logs()
        host, _, port = self.ray_address.rpartition(":")
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1.0).close()
            return True
        return False


class Observer:
    """A driver in a process of its own (`demand.py`): asks the cluster for actors as a run does, and says which nodes there are."""

    def __init__(self, cluster: AutoscaledCluster) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "demand.py")],
            env=cluster.environment() | {"RAY_ADDRESS": cluster.ray_address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Observer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def want(self, **counts: int) -> None:
        """There should be so many generators, verifiers, ranks."""
        self._ask(counts)

    def nodes(self, *, is_draining: bool = False) -> dict[str, set[str]]:
        """Ids of the live nodes by `rlvr.io/role`. is_draining: those that are told to go, else all."""
        found: dict[str, set[str]] = {}
        for node in self._ask({}):
            if node["is_draining"] or not is_draining:
                found.setdefault(node["labels"]["rlvr.io/role"], set()).add(node["id"])
        return found

    def labels(self) -> list[dict[str, str]]:
        return [node["labels"] for node in self._ask({})]

    def _ask(self, counts: Mapping[str, int]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(counts) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the driver has ended"
        return json.loads(answer)


def node_command() -> list[str]:
    """The words that every node starts with; ports are any free ones, since all nodes have one address."""
    free = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
    return [RAY, "start", "--block", "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}", *free]
