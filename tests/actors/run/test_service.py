"""Laws of the HTTP address: what it says of itself can be asked, whatever it was bound to."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from actors.addresses import host_port
from actors.run.service import Service, Target, check_port
from rlvr.errors import UserError


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def nothing() -> dict[str, Any]:
    return {}


async def scaled(generators: int | None, verifiers: int | None) -> dict[str, Any]:
    if generators == 0:
        raise UserError("no generators would be left")
    return {"wanted": [generators, verifiers]}


def service_of(*, targets: Sequence[Target] = (), advertise: str = "") -> Service:
    return Service(run="r", targets=lambda: targets, status=nothing, stop=nothing, scale=scaled, registry=CollectorRegistry(), advertise=advertise)


def answer_to(path: str, body: str, *, authorization: str = "Bearer {token}") -> tuple[int, str]:
    """POST to a service of its own; status and text of the answer."""

    def post(service: Service) -> tuple[int, str]:
        headers = {"Authorization": authorization.format(token=service.token)} if authorization else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(service.address + path, data=body.encode(), headers=headers), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def ask() -> tuple[int, str]:
        service = service_of()
        await service.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(post, service)
        finally:
            await service.stop()

    return asyncio.run(ask())


def targets_under(bind: str, advertise: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Start a service on `bind`; its address, and what it answers there."""

    async def ask() -> tuple[str, list[dict[str, Any]]]:
        target = Target(address=host_port("10.0.0.1", 9), role="learner", replica="learner-0")
        service = service_of(targets=[target], advertise=advertise)
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


def test_only_who_has_the_token_steers_the_run() -> None:
    for path in ("/stop", "/scale"):
        for authorization in ("", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}é"):
            assert answer_to(path, '{"generators": 2}', authorization=authorization)[0] == 401
    assert answer_to("/stop", "") == (200, "{}")
    assert answer_to("/scale", '{"generators": 2}') == (200, '{"wanted":[2,null]}')
    assert answer_to("/scale", '{"generators": 2, "verifiers": 3}') == (200, '{"wanted":[2,3]}')


def test_what_the_run_refuses_is_answered_with_its_sentence() -> None:
    assert answer_to("/scale", '{"generators": 0}') == (409, "no generators would be left")


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"generators": "two"}', '{"generator": 2}', '{"generators": 1.5}'])
def test_a_body_that_says_nothing_is_refused(body: str) -> None:
    assert answer_to("/scale", body)[0] == 400


def test_every_run_has_a_token_of_its_own() -> None:
    assert len({service_of().token for _ in range(3)}) == 3
