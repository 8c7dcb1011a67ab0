"""A network in which nothing but loopback exists, and a record of every attempt to leave it.

Run as `unshare --net python island.py FILE`. Loopback works; every other address is routed to a
device that this program holds, so each packet for the world outside, a name's look-up included, is
written to FILE and goes nowhere. Ends when its stdin does.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_DEVICE = "outside"
_HOP_BY_HOP, _ICMPV6 = 0, 58


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _is_attempt(packet: bytes) -> bool:
    """Whether a program sent it; the kernel itself greets its neighbours on a new IPv6 link."""
    return packet[0] >> 4 == 4 or packet[6] not in (_HOP_BY_HOP, _ICMPV6)


def main(record: Path) -> None:
    """Make the network, say so on stdout, and write down what tries to leave."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    _ip("link", "set", "lo", "up")
    _ip("address", "add", "192.0.2.1/24", "dev", _DEVICE)
    _ip("link", "set", _DEVICE, "up")
    _ip("route", "add", "default", "dev", _DEVICE)
    with record.open("ab", buffering=0) as written:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([device, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            packet = os.read(device, 65536)
            if _is_attempt(packet):
                written.write(packet.hex().encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
