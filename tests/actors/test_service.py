"""Laws of the HTTP address: what it says of itself can be asked, whatever it was bound to."""

import asyncio
import json
import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from actors.service import Service, Target, check_port, host_port
from rlvr.errors import UserError


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def targets_under(bind: str, advertise: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Start a service on `bind`; its address, and what it answers there."""

    async def status() -> dict[str, Any]:
        return {}

    async def ask() -> tuple[str, list[dict[str, Any]]]:
        target = Target(address=host_port("10.0.0.1", 9), role="learner", replica="learner-0")
        service = Service(run="r", targets=lambda: [target], status=status, registry=CollectorRegistry(), advertise=advertise)
        await service.start(bind, 0)
        try:
            reachable = service.address.replace("named.example", "127.0.0.1")
            answer = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{reachable}/sd", timeout=5).read())
            return service.address, json.loads(answer)
        finally:
            await service.stop()

    return asyncio.run(ask())


def test_targets_carry_role_replica_and_run() -> None:
    _, groups = targets_under("127.0.0.1")
    assert groups == [{"targets": ["10.0.0.1:9"], "labels": {"role": "learner", "replica": "learner-0", "run": "r"}}]


def test_an_address_that_was_named_is_the_one_that_is_told() -> None:
    address, _ = targets_under("127.0.0.1")
    assert address.startswith("http://127.0.0.1:")


def test_every_address_is_told_as_one_that_can_be_asked() -> None:
    address, _ = targets_under("0.0.0.0")
    assert not address.startswith("http://0.0.0.0")


def test_the_advertised_host_is_told_where_every_address_is_bound() -> None:
    assert targets_under("0.0.0.0", "named.example")[0].startswith("http://named.example:")
    assert targets_under("127.0.0.1", "named.example")[0].startswith("http://127.0.0.1:")


@needs_ipv6
def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert targets_under("::1")[0].startswith("http://[::1]:")
    address, _ = targets_under("::")
    assert not address.startswith("http://[::]")


@needs_ipv6
def test_every_address_of_ipv6_is_every_address_of_ipv4_too() -> None:
    assert targets_under("::", "127.0.0.1")[0].startswith("http://127.0.0.1:")


def test_a_target_of_ipv6_stands_in_brackets() -> None:
    assert [host_port(host, 80) for host in ("::1", "10.0.0.1", "node")] == ["[::1]:80", "10.0.0.1:80", "node:80"]


def test_an_address_that_is_not_this_machines_is_refused() -> None:
    with pytest.raises(UserError, match=r"203.0.113.1:0"):
        check_port("203.0.113.1", 0)
    with pytest.raises(UserError, match=r"no-such-host.invalid"):
        check_port("no-such-host.invalid", 0)
