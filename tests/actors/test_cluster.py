"""Laws of the cluster: more GPUs than there are is refused, and an actor asks for what its settings say."""

import platform

import msgspec
import pytest
import ray

from actors.cluster import Cluster, check_gpus, check_labels, metrics_host, options, refusal
from rlvr.config import Config
from rlvr.errors import ConfigError

CPU = Cluster(address="a", namespace="n", is_ours=True, num_gpus=0)


def config(**tables: dict[str, object]) -> Config:
    return msgspec.convert(tables, Config)


def test_more_gpus_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="generators ask for 4 GPUs and the learner for 0, the cluster has 0"):
        check_gpus(config(generators={"device": "cuda", "count": 2, "tensor_parallel": 2}), CPU)
    with pytest.raises(ConfigError, match="the learner for 8, the cluster has 8"):
        check_gpus(config(learner={"ranks": 8}), msgspec.structs.replace(CPU, num_gpus=8))


def test_a_split_that_fits_is_taken() -> None:
    check_gpus(config(generators={"count": 4}, learner={"ranks": 4}), msgspec.structs.replace(CPU, num_gpus=8))
    check_gpus(config(generators={"count": 9}, learner={"ranks": 9}), CPU)


def test_a_joined_cluster_may_still_grow() -> None:
    check_gpus(config(learner={"device": "cuda"}), msgspec.structs.replace(CPU, is_ours=False))


def test_labels_become_a_label_selector_and_no_labels_none() -> None:
    assert options(name="g", cluster=CPU, labels={"rlvr.io/role": "generator"}, cpus=1)["label_selector"] == {"rlvr.io/role": "generator"}
    assert "label_selector" not in options(name="g", cluster=CPU, labels={}, cpus=1)


def test_a_label_that_no_node_of_our_own_ray_has_is_refused() -> None:
    asked = config(generators={"labels": {"rlvr.io/role": "generator"}})
    with pytest.raises(ConfigError, match=r"no node is labelled rlvr\.io/role=generator"):
        check_labels(asked, CPU, [{"ray.io/node-id": "1"}])
    check_labels(asked, CPU, [{"ray.io/node-id": "1", "rlvr.io/role": "generator"}])
    check_labels(asked, msgspec.structs.replace(CPU, is_ours=False), [{}])
    check_labels(config(), CPU, [{}])


def test_a_cluster_of_another_ray_or_python_is_refused_with_all_four_versions() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as mismatch:
        check_version_info({"ray_version": "2.40.0", "python_version": "3.9.1"}, "node 10.0.0.1:6379")
    said = refusal(mismatch.value, joined="10.0.0.1:6379")
    assert said == (
        "the Ray of RAY_ADDRESS=10.0.0.1:6379 cannot be joined: its nodes run Ray 2.40.0 on Python 3.9.1, this process "
        f"Ray {ray.__version__} on Python {platform.python_version()}; use one image, or images of the same two versions, for all of them"
    )


def test_a_ray_that_cannot_be_had_is_one_sentence() -> None:
    assert refusal(ConnectionError("nobody there\nat all"), joined="h:1") == (
        "the Ray of RAY_ADDRESS=h:1 cannot be joined (nobody there); a cluster with token authentication wants RAY_AUTH_MODE=token here too"
    )
    assert refusal(RuntimeError(), joined="") == "Ray cannot start on this machine (RuntimeError); `firesteel doctor` says what is missing"


def test_nccl_without_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match="use gloo or auto"):
        check_gpus(config(weights={"backend": "nccl"}), CPU)


def test_metrics_are_found_where_they_are_bound() -> None:
    assert metrics_host("127.0.0.1") == "127.0.0.1"
