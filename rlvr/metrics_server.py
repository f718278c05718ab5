"""One registry over HTTP, as Prometheus' plain text.

Owns a thread with a server on it. Always plain text, whatever the scraper prefers: for OpenMetrics with underscores, which Prometheus 2 asks for,
prometheus_client 0.26 writes the colon in a library's names (`vllm:…`) as an underscore, and no dashboard of that library finds them.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    timeout = 10.0  # of a client that says nothing: each holds a thread

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


class MetricsServer:
    """Serves from its making until `close`."""

    def __init__(self, collectors: CollectorRegistry, bind: str, port: int) -> None:
        """port: 0 = any free one. Raises OSError where it cannot be had."""
        self._server = make_server(bind, port, _plain(collectors), _Server6 if ":" in bind else _Server, _Silent)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _plain(collectors: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    application: Any = make_wsgi_app(collectors)

    def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = application(environ | {"HTTP_ACCEPT": "text/plain;version=0.0.4"}, start_response)
        return answer

    return plain
