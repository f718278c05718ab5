"""Joining and leaving: no silent wait, no leftovers."""

import os
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from learner import process_group
from learner.interfaces import interface_of
from rlvr.errors import LearnerError

pytestmark = pytest.mark.processes


def test_leaving_without_having_joined_does_nothing() -> None:
    process_group.leave()
    assert not dist.is_initialized()


def test_a_group_can_be_joined_again_after_it_was_left() -> None:
    for _ in range(2):
        process_group.join(0, 1, "127.0.0.1", 0, "cpu")
        assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
        process_group.leave()
    assert not dist.is_initialized()


def test_a_rank_whose_peer_never_comes_raises_at_its_deadline() -> None:
    attempt = "from learner import process_group; process_group.join(0, 2, '127.0.0.1', 0, 'cpu', timeout_s=1.0)"
    tried = subprocess.run(
        [sys.executable, "-c", attempt], capture_output=True, text=True, timeout=120, check=False
    )  # a failed join uses a process up
    assert "LearnerError: rank 0 of 2 could not join" in tried.stderr


def test_a_rank_without_a_store_raises_at_its_deadline() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: nobody else can serve there
        with pytest.raises(LearnerError, match="rank 1 of 2 could not join"):
            process_group.join(1, 2, "127.0.0.1", taken.getsockname()[1], "cpu", timeout_s=1.0)


def test_a_port_in_use_is_said_so() -> None:
    store = process_group.open_store("127.0.0.1")
    with pytest.raises(LearnerError, match="cannot be served"):
        process_group.open_store("127.0.0.1", port=store.port)


def test_the_store_of_rank_0_takes_a_free_port_before_the_ranks_meet() -> None:
    stores = [process_group.open_store("127.0.0.1") for _ in range(2)]
    assert len({store.port for store in stores}) == 2


def test_gloo_speaks_from_the_interface_that_leads_to_the_other_ranks() -> None:
    process_group.join(0, 1, "127.0.0.1", 0, "cpu")
    try:
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    finally:
        process_group.leave()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_an_interface_that_the_user_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    process_group.join(0, 1, "127.0.0.1", 0, "cpu")
    process_group.leave()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize(("address", "name"), [("127.0.0.1", "lo"), ("192.0.2.77", None), ("2001:db8::77", None)])
def test_an_interface_is_found_by_its_address(address: str, name: str | None) -> None:
    assert interface_of(address) == name
