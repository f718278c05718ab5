"""The Ray cluster of a run: joined or started, and what each kind of actor asks of it.

Owns resources, label selectors and the addresses of nodes. Called by the controller and by `firesteel eval`; knows no queue and no model.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray._private import ray_constants

from actors.addresses import EVERY_ADDRESS, own_address
from rlvr.config import Config
from rlvr.config_rules import engines_known
from rlvr.errors import ConfigError, UserError

logger = logging.getLogger(__name__)

SCALED_MOST = 64
"""Workers of one role that a machine of our own can be asked for."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_process_group_cleanup_enabled": "1",
}
"""Ray settings that a run does not leave to chance: nothing is sent anywhere, an actor without GPUs keeps the machine's own settings, and the
processes of an actor that was killed, such as an engine's workers, are killed with it."""


TOKEN = Path.home() / ".ray" / "auth_token"
"""Where Ray keeps the token of this user's clusters."""
AUTHENTICATION_LOGGER = "ray._private.authentication.authentication_token_setup"
"""Says at every start that tokens are on, which is as it should be; that they are off it may say."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The Ray that a run lives in."""

    address: str
    namespace: str
    is_ours: bool
    num_gpus: int

    def device(self, setting: str) -> str:
        """`cpu` or `cuda` for a setting of auto, cpu or cuda."""
        return setting if setting != "auto" else ("cuda" if self.num_gpus else "cpu")


def connect(config: Config, *, namespace: str) -> Cluster:
    """Join the Ray of RAY_ADDRESS, or start one on this machine. Raises UserError where neither works."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    joined = os.environ.get("RAY_ADDRESS", "")
    logging.getLogger(AUTHENTICATION_LOGGER).addFilter(lambda record: "is enabled" not in record.getMessage())
    if not joined:
        _stay_on_this_machine()
    logical: dict[str, Any] = {} if joined else {"num_cpus": max(os.cpu_count() or 1, _cpus_asked(config)), "include_dashboard": False}
    try:
        context: Any = ray.init(
            address=joined or "local",
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            **logical,
        )
    except Exception as error:
        raise UserError(refusal(error, joined=joined)) from error
    if not joined:
        _close_token()
    cluster = Cluster(
        address=context.address_info["gcs_address"],
        namespace=namespace,
        is_ours=not joined,
        num_gpus=int(ray.cluster_resources().get("GPU", 0)),
    )
    try:
        check_gpus(config, cluster)
        check_labels(config, cluster, [node["Labels"] for node in ray.nodes() if node["Alive"]])
    except ConfigError:
        ray.shutdown()
        raise
    return cluster


def _stay_on_this_machine() -> None:
    """Let a Ray of our own listen on the loopback alone, as it does by itself on other systems than Linux: nobody else is to join it."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    TOKEN.parent.mkdir(mode=0o700, exist_ok=True)


def _close_token() -> None:
    """Ray writes the token that opens its ports for whomever the umask lets read it."""
    try:
        TOKEN.chmod(0o600)
    except FileNotFoundError:
        logger.info("this Ray has no token in %s", TOKEN)  # it is elsewhere, or tokens are off
    except OSError as error:
        logger.warning("%s may be readable by others (%s): whoever reads it may run code as you; close it with chmod 600", TOKEN, error.strerror)


def refusal(error: Exception, *, joined: str) -> str:
    """Why there is no Ray, in one sentence. joined: the RAY_ADDRESS that was tried; empty where one was to start here."""
    said = str(error).strip()
    if not joined:
        return f"Ray cannot start on this machine ({_first_line(error)}); `firesteel doctor` says what is missing"
    where = f"the Ray of RAY_ADDRESS={joined} cannot be joined"
    versions = re.findall(r"(?:Ray|Python): (\S+)", said) if said.startswith("Version mismatch") else []
    if len(versions) == 4:
        theirs, ours = f"Ray {versions[0]} on Python {versions[1]}", f"Ray {versions[2]} on Python {versions[3]}"
        return f"{where}: its nodes run {theirs}, this process {ours}; use one image, or images of the same two versions, for all of them"
    return f"{where} ({_first_line(error)}); a cluster with token authentication wants RAY_AUTH_MODE=token here too"


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _cpus_asked(config: Config) -> int:
    """Logical CPUs of a Ray of our own: they reserve nothing, so there is room for whatever the run may be scaled to."""
    generators = max(engines_known(config), min(config.generators.max, SCALED_MOST))
    verifiers = max(config.verifiers.count, min(config.verifiers.max, SCALED_MOST))
    return generators + verifiers * config.verifiers.workers + config.learner.ranks


def check_gpus(config: Config, cluster: Cluster) -> None:
    """Refuse more GPUs than there are; a joined cluster may still grow, so there it is a warning."""
    generators = engines_known(config) * config.generators.tensor_parallel if cluster.device(config.generators.device) == "cuda" else 0
    learner = config.learner.ranks if cluster.device(config.learner.device) == "cuda" else 0
    if config.weights.backend == "nccl" and not (generators and learner):
        raise ConfigError("weights.backend = nccl needs generators and learner on GPUs, this cluster has none for both; use gloo or auto")
    if generators + learner <= cluster.num_gpus:
        return
    message = (
        f"generators ask for {generators} GPUs and the learner for {learner}, the cluster has {cluster.num_gpus}; "
        "lower generators.count, generators.tensor_parallel or learner.ranks, or set their device to cpu"
    )
    if cluster.is_ours:
        raise ConfigError(message)
    logger.warning("%s; waiting for the cluster to grow", message)


def check_labels(config: Config, cluster: Cluster, nodes: Sequence[Mapping[str, str]]) -> None:
    """Refuse a label selector that no node of our own Ray can ever match; a joined cluster may still bring such a node."""
    for table, labels in (("generators", config.generators.labels), ("verifiers", config.verifiers.labels), ("learner", config.learner.labels)):
        if any(all(node.get(name) == value for name, value in labels.items()) for node in nodes):
            continue
        wanted = ", ".join(f"{name}={value}" for name, value in labels.items())
        message = (
            f"{table}.labels: no node is labelled {wanted}; start Ray's nodes with `ray start --labels={wanted.replace(' ', '')}` and set RAY_ADDRESS"
        )
        if cluster.is_ours:
            raise ConfigError(message)
        logger.warning("%s; waiting for such a node", message)


def spawn(actor: type, *arguments: Any, **options: Any) -> Any:
    """Start one actor; returns its handle. The options are those of `options`."""
    return ray.remote(actor).options(**options).remote(*arguments)


def options(
    *,
    name: str,
    cluster: Cluster,
    labels: Mapping[str, str],
    cpus: float,
    gpus: int = 0,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Ray options of one actor of a run: its place, its name in the run's namespace, and that nobody restarts it behind our back."""
    chosen: dict[str, Any] = {
        "name": name,
        "namespace": cluster.namespace,
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": dict(env or {})},
    }
    if threads is not None:
        chosen["max_concurrency"] = threads
    if labels:
        chosen["label_selector"] = dict(labels)
    return chosen


def node_address() -> str:
    """The address of this process's Ray node, by which other nodes reach it."""
    return ray.util.get_node_ip_address()


def metrics_host(bind: str) -> str:
    """The address under which metrics served on `bind` are found: `bind` itself, or this node's where that means every address; a Ray of our own
    lives on the loopback, its metrics need not."""
    if bind not in EVERY_ADDRESS:
        return bind
    host = node_address()
    return own_address() if ipaddress.ip_address(host).is_loopback else host
