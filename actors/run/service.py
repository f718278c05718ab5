"""The controller's HTTP address: service discovery for Prometheus, the run's status, the controller's own metrics, and what steers a live run.

Owns five paths: GET `/sd` (http_sd_config), `/status` (JSON), `/metrics`; POST `/stop`, and `/scale` with {"generators": n, "verifiers": m}.
Whoever may reach the address may look; to steer takes the token of the run folder's run.json, as `Authorization: Bearer TOKEN`. Knows no Ray; asks
callables for what it serves and does. A refusal is one sentence: 401 without the token, 400 for a body that is none, 409 where the run refuses.
"""

import errno
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from actors.addresses import EVERY_ADDRESS, host_port, own_address
from rlvr.errors import UserError


class Scaling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /scale: how many of each there are to be; None = as many as now."""

    generators: int | None = None
    verifiers: int | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One place where Prometheus finds metrics of one actor."""

    address: str
    role: str
    replica: str


def check_port(bind: str, port: int) -> None:
    """Raise UserError where `bind`:`port` cannot be listened on now; the service itself opens it later."""
    _listen(bind, port).close()


def _listen(bind: str, port: int) -> socket.socket:
    """A listening socket; `::` listens on IPv4 too, where the machine can. Raises UserError."""
    is_ipv6 = ":" in bind
    try:
        return socket.create_server(
            (bind, port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET, dualstack_ipv6=bind == "::" and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        raise _refusal(bind, port, error) from error


def _refusal(bind: str, port: int, error: OSError) -> UserError:
    taken = error.errno == errno.EADDRINUSE
    reason = f"port {port} of {bind} is in use; choose another metrics.port (0 = a free one)" if taken else f"{bind}:{port}: {error.strerror}"
    return UserError(f"metrics.bind and metrics.port: {reason}")


class Service:
    """The HTTP server of one run."""

    def __init__(
        self,
        *,
        run: str,
        targets: Callable[[], Sequence[Target]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        stop: Callable[[], Awaitable[dict[str, Any]]],
        scale: Callable[[int | None, int | None], Awaitable[dict[str, Any]]],
        registry: CollectorRegistry,
        advertise: str = "",
    ) -> None:
        """advertise: the host under which others find the service where it is bound to every address; empty = this machine's own address.

        stop, scale (generators, verifiers): do it and say what was done; a UserError is the answer to whoever asked.
        """
        self._run = run
        self._advertise = advertise
        self._targets = targets
        self._status = status
        self._stop = stop
        self._scale = scale
        self._registry = registry
        application = web.Application()
        application.add_routes(
            [
                web.get("/sd", self._serve_targets),
                web.get("/status", self._serve_status),
                web.get("/metrics", self._serve_metrics),
                web.post("/stop", self._serve_stop),
                web.post("/scale", self._serve_scale),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        self.address = ""
        self.token = secrets.token_urlsafe(24)

    async def start(self, bind: str, port: int) -> None:
        """Listen. Raises UserError where the port is taken or the address is not this machine's."""
        listening = _listen(bind, port)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()
        host, chosen = listening.getsockname()[:2]
        if host in EVERY_ADDRESS:
            host = self._advertise or own_address()
        self.address = f"http://{host_port(host, chosen)}"

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

    async def _serve_stop(self, request: web.Request) -> web.Response:
        self._check_token(request)
        return await _answer(self._stop())

    async def _serve_scale(self, request: web.Request) -> web.Response:
        self._check_token(request)
        try:
            wanted = msgspec.json.decode(await request.read(), type=Scaling)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f'the body is to be {{"generators": N, "verifiers": N}}: {error}') from error
        if wanted.generators is None and wanted.verifiers is None:
            raise web.HTTPBadRequest(text="the body names neither generators nor verifiers")
        return await _answer(self._scale(wanted.generators, wanted.verifiers))

    def _check_token(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {self.token}".encode()):
            raise web.HTTPUnauthorized(text="this needs the token of the run folder's run.json", headers={"WWW-Authenticate": "Bearer"})


async def _answer(done: Awaitable[dict[str, Any]]) -> web.Response:
    try:
        return web.Response(body=msgspec.json.encode(await done), content_type="application/json")
    except UserError as error:
        raise web.HTTPConflict(text=str(error)) from error
