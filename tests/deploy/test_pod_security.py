"""Laws of pod security: every pod of every variant meets the restricted profile, rdma included, and one that does not is told by name."""

from pathlib import Path

import pytest
import restricted_rules
from object_schemas import pod_security_faults
from rendered import BAD, BASE, VARIANTS, cluster_of, stream_of, text_of

BAD_FOLDERS = sorted(folder for folder in BAD.iterdir() if (folder / "expected").read_text().startswith("pod security: "))


@pytest.mark.parametrize("folder", VARIANTS, ids=lambda folder: folder.name)
def test_every_pod_is_restricted(folder: Path) -> None:
    assert restricted_rules.faults(stream_of(folder)) == []


@pytest.mark.parametrize("folder", VARIANTS, ids=lambda folder: folder.name)
def test_every_pod_is_restricted_by_the_outside_material_too(folder: Path) -> None:
    assert pod_security_faults(text_of(folder)) == []


@pytest.mark.parametrize("folder", BAD_FOLDERS, ids=lambda folder: folder.name)
def test_a_pod_that_is_not_restricted_is_told_by_name(folder: Path) -> None:
    words = (folder / "expected").read_text().strip().partition(": ")[2]
    assert any(words in fault for fault in restricted_rules.faults(stream_of(folder)))


@pytest.mark.parametrize("folder", BAD_FOLDERS, ids=lambda folder: folder.name)
def test_the_outside_material_tells_of_it_too(folder: Path) -> None:
    assert pod_security_faults(text_of(folder)) != []


def test_there_are_pods_that_are_refused() -> None:
    assert len(BAD_FOLDERS) >= 6


def test_what_the_operator_adds_to_the_head_is_restricted() -> None:
    """The autoscaler's container has no template here: it takes its context from autoscalerOptions, and the rest from the head's pod."""
    cluster = cluster_of(stream_of(BASE))
    pod = cluster["headGroupSpec"]["template"]["spec"]
    autoscaler = {"name": "autoscaler", "securityContext": cluster["autoscalerOptions"]["securityContext"]}
    assert list(restricted_rules.of_container(autoscaler, pod["securityContext"])) == []
