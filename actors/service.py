"""The controller's HTTP address: service discovery for Prometheus, the run's status, and the controller's own metrics.

Owns three paths: `/sd` (http_sd_config), `/status` (JSON), `/metrics`. Knows no Ray; asks a callable for what it serves.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rlvr.errors import UserError


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One place where Prometheus finds metrics of one actor."""

    address: str
    role: str
    replica: str


def check_port(bind: str, port: int) -> None:
    """Raise UserError where `bind`:`port` cannot be listened on now; the service itself opens it later."""
    try:
        with socket.create_server((bind, port), family=socket.AF_INET6 if ":" in bind else socket.AF_INET):
            pass
    except OSError as error:
        raise _refusal(bind, port, error) from error


def _refusal(bind: str, port: int, error: OSError) -> UserError:
    taken = error.errno == errno.EADDRINUSE
    reason = f"port {port} of {bind} is in use; choose another metrics.port (0 = a free one)" if taken else f"{bind}:{port}: {error.strerror}"
    return UserError(f"metrics.bind and metrics.port: {reason}")


class Service:
    """The HTTP server of one run."""

    def __init__(
        self, *, run: str, targets: Callable[[], Sequence[Target]], status: Callable[[], Awaitable[dict[str, Any]]], registry: CollectorRegistry
    ) -> None:
        self._run = run
        self._targets = targets
        self._status = status
        self._registry = registry
        application = web.Application()
        application.add_routes(
            [web.get("/sd", self._serve_targets), web.get("/status", self._serve_status), web.get("/metrics", self._serve_metrics)]
        )
        self._runner = web.AppRunner(application, access_log=None)
        self.address = ""

    async def start(self, bind: str, port: int) -> None:
        """Listen. Raises UserError where the port is taken or the address is not this machine's."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, bind, port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise _refusal(bind, port, error) from error
        host, chosen = self._runner.addresses[0][:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve_targets(self, _: web.Request) -> web.Response:
        groups = [
            {"targets": [target.address], "labels": {"role": target.role, "replica": target.replica, "run": self._run}} for target in self._targets()
        ]
        return web.json_response(groups)

    async def _serve_status(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await self._status()), content_type="application/json")

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
