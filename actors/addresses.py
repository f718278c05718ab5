"""Addresses of this machine, as others write and find them.

Owns what "every address" means and which one of them to tell. Asks the kernel alone.
"""

import socket

EVERY_ADDRESS = ("0.0.0.0", "::", "")


def host_port(host: str, port: int) -> str:
    """As Prometheus and URLs write it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address() -> str:
    """The address from which this machine would speak to others; nothing is sent. Its loopback where it has no network."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):  # addresses for documentation
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"
