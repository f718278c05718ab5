"""Ray's fake multi-node provider with nodes that boot and end as KubeRay's pods do. Ray's autoscaler loads it, in a process of its own.

A node is a `ray start --block` with its group's labels and resources. Ending one is a SIGTERM, and one that has ended is not there any more. Ray's
own provider starts the parts of a node without the process that a pod has as its first one, and it is that process which drains.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import NODE_KIND_WORKER, STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE


class PodProvider(FakeMultiNodeProvider):
    """Nodes of one machine."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.lock:
            for name in [name for name, node in self._nodes.items() if "process" in node and node["process"].poll() is not None]:
                del self._nodes[name]
            return list(super().non_terminated_nodes(tag_filters))

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        with self.lock:
            name = self._next_hex_node_id()
            own = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_NAME: name, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            self._nodes[name] = {"tags": own | tags, "process": self._boot(name, tags[TAG_RAY_USER_NODE_TYPE], resources, labels)}

    def _boot(self, name: str, group: str, resources: dict[str, float], labels: dict[str, str]) -> "subprocess.Popen[bytes]":
        config = self.provider_config
        flags = {"CPU": "--num-cpus", "GPU": "--num-gpus", "memory": "--memory"}
        words = [*config["node_command"], f"--address={self._gcs_address}", f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"]
        words += [f"{flag}={int(resources.get(resource, 0))}" for resource, flag in flags.items() if resource in resources or resource != "memory"]
        words.append(f"--resources={json.dumps({key: value for key, value in resources.items() if key not in flags})}")
        words.append(f"--temp-dir={config['folder']}/{name[-2:]}")  # as a pod has: two nodes that start at once in one would share a socket
        identity = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name, "RAY_CLOUD_INSTANCE_ID": name, "RAY_NODE_TYPE_NAME": group}
        environment = os.environ | config["environments"][group] | identity
        with (Path(config["folder"]) / f"{group}-{name[-5:]}.log").open("wb") as log:
            return subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _terminate_node(self, node: dict[str, Any]) -> None:
        node["process"].terminate()
