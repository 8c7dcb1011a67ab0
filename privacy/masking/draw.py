"""Numbers that a key alone decides: the same for the same value, unrelated under another key.

The seed is the HMAC-SHA-256 (RFC 2104) of a value's kind and the value in its plainest spelling;
each draw takes eight bytes of HMAC(seed, counter). Without the key nobody can tell which value a
surrogate came from, nor compute the surrogate of a value that they guess. Format-preserving
encryption is not used: nothing here can be turned back, and FF3 was withdrawn by NIST in 2025.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence
from typing import TypeVar

from privacy.masking.plain import plain

Item = TypeVar("Item")

_LABEL = b"cloister surrogate v1"


def plainest(value: str) -> str:
    """`value` in the one spelling that all spellings share: full-width, case, spacing, marks gone.

    Only letters and digits count where there are any: `4111 1111` and `4111-1111` are one value.
    """
    value = plain(unicodedata.normalize("NFKC", value))[0].casefold()
    kept = "".join(character for character in value if character.isalnum())
    return kept or value


class Draw:
    """A stream of draws that follows from key, kind and value."""

    def __init__(self, secret: bytes, kind: str, value: str, attempt: int = 0) -> None:
        """Begin the stream; another `attempt` is another stream for the same value."""
        # Lone surrogates stand in real files: they are a value like any other.
        said = plainest(value).encode("utf-8", "surrogatepass")
        head = b"\0".join((_LABEL, kind.encode(), str(attempt).encode()))
        self._seed = hmac.digest(secret, head + b"\0" + said, hashlib.sha256)
        self._counter = 0

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` - 1; even to within bound / 2**64."""
        self._counter += 1
        block = hmac.digest(self._seed, self._counter.to_bytes(8, "big"), hashlib.sha256)
        return int.from_bytes(block[:8], "big") % bound

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`."""
        return items[self.below(len(items))]

    def digits(self, length: int) -> str:
        """`length` digits, the first may be 0."""
        return "".join(str(self.below(10)) for _ in range(length))
