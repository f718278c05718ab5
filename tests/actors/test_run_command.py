"""Laws of what is looked at last before the run folder is made: the sandbox, and where metrics are served."""

import logging
import os
from pathlib import Path

import msgspec
import pytest

from actors.cluster import Cluster
from actors.commands.run import warn_of_loopback
from actors.prepare import check_sandbox
from rlvr.config import Config
from rlvr.errors import UserError
from verifier.verify import Verifier

pytestmark = pytest.mark.processes

OURS = Cluster(address="a", namespace="n", is_ours=True, num_gpus=0)
JOINED = msgspec.structs.replace(OURS, is_ours=False, num_gpus=2)


def config(**tables: dict[str, object]) -> Config:
    return msgspec.convert(tables, Config)


@pytest.mark.parametrize(("bind", "warned"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)])
def test_metrics_that_other_nodes_cannot_be_asked_for_are_warned_of(bind: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_loopback(config(metrics={"bind": bind}), JOINED)
        warn_of_loopback(config(metrics={"bind": bind}), OURS)
    assert [record.args for record in caplog.records] == [(bind,)] * warned


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_required_layers_are_tried_before_a_run_and_leave_no_process_behind() -> None:
    before = children()
    with Verifier() as verifier:
        works = {layer.name: layer.works for layer in verifier.layers()}
    for name in ("seccomp", "landlock"):
        wanted = config(verifiers={"require": (name,)})
        if works[name]:
            check_sandbox(wanted)
        else:
            with pytest.raises(UserError, match=f"verifiers.require names {name}"):
                check_sandbox(wanted)
    assert children() <= before
