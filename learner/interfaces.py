"""The network interface by which this host reaches another, by name, as gloo wants to be told.

Called by `learner.process_group`. Linux alone; knows no group.
"""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

SIOCGIFADDR = 0x8915
REQUEST = struct.Struct("16s4x4s8x")
"""struct ifreq: a name, and after family and port an IPv4 address."""
IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def interface_of(address: str) -> str | None:
    """The name of the interface that has this address of this host; None where none has it as its first one."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    return _with_ipv6(wanted) if wanted.version == 6 else _with_ipv4(wanted)


def _with_ipv4(wanted: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                _, found = REQUEST.unpack(fcntl.ioctl(asked, SIOCGIFADDR, REQUEST.pack(name.encode(), b"")))
            except OSError:  # an interface without an address
                continue
            if found == wanted.packed:
                return name
    return None


def _with_ipv6(wanted: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    lines = IPV6_ADDRESSES.read_text(encoding="ascii").splitlines() if IPV6_ADDRESSES.is_file() else []
    return next((line.split()[-1] for line in lines if line.split()[0] == wanted.packed.hex()), None)
