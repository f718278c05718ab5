"""Laws of what only the cluster can tell: refused, or warned of, before the run folder is made."""

import logging
import os
from pathlib import Path

import msgspec
import pytest

from actors.cluster import Cluster
from actors.prepare import check_sandbox
from actors.run_command import check_joined
from rlvr.config import Config
from rlvr.errors import ConfigError, UserError
from verifier.verify import Verifier

OURS = Cluster(address="a", namespace="n", is_ours=True, num_gpus=0)
JOINED = msgspec.structs.replace(OURS, is_ours=False, num_gpus=2)


def config(**tables: dict[str, object]) -> Config:
    return msgspec.convert(tables, Config)


def test_nccl_without_gpus_at_both_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="generators run on cpu and the learner on cpu"):
        check_joined(config(weights={"backend": "nccl"}), OURS)
    with pytest.raises(ConfigError, match="generators run on cuda and the learner on cpu"):
        check_joined(config(weights={"backend": "nccl"}, learner={"device": "cpu"}), JOINED)
    check_joined(config(weights={"backend": "nccl"}), JOINED)
    check_joined(config(weights={"backend": "gloo"}), OURS)


@pytest.mark.parametrize(("bind", "warned"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)])
def test_metrics_that_other_nodes_cannot_be_asked_for_are_warned_of(bind: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_joined(config(metrics={"bind": bind}), JOINED)
        check_joined(config(metrics={"bind": bind}), OURS)
    assert [record.args for record in caplog.records] == [(bind,)] * warned


def test_required_layers_are_tried_before_a_run_and_leave_no_process_behind() -> None:
    with Verifier() as verifier:
        works = {layer.name: layer.works for layer in verifier.layers()}
    for name in ("seccomp", "landlock"):
        wanted = config(verifiers={"require": (name,)})
        if works[name]:
            check_sandbox(wanted)
        else:
            with pytest.raises(UserError, match=f"verifiers.require names {name}"):
                check_sandbox(wanted)
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() == []
