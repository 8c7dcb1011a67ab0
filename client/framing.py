"""One question to a program in the closed room, or its answer: a JSON header, then bytes.

`size (8 bytes, big-endian) | header | body`.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

_SIZE: Final = struct.Struct("!Q")


def frame(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Header and body as one."""
    encoded = json.dumps(header).encode()
    return _SIZE.pack(len(encoded)) + encoded + body


def unframe(framed: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of what `frame` made.

    Raises:
      ValueError: It is cut short, or its header is no JSON object.
    """
    begin = _SIZE.size
    if len(framed) < begin:
        raise ValueError(f"expected at least {begin} bytes, got {len(framed)}")
    (size,) = _SIZE.unpack(framed[:begin])
    if size > len(framed) - begin:
        raise ValueError(f"expected a header of {size} bytes, got {len(framed) - begin}")
    header = json.loads(framed[begin : begin + size])
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object, got {type(header).__name__}")  # noqa: TRY004
    return header, framed[begin + size :]
