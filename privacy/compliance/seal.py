"""The seal of a report: digests of its files, signed as a detached DSSE envelope.

The envelope holds an in-toto Statement whose subjects are the page and what lies beside it, by
SHA-256. The page carries a digest of its own too, over itself with zeros in that place: it shows
an accident, not a forger. Only the signature says whose report it is.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.signer._signature import Signature

from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey, key_id, verify

EMPTY_DIGEST = "0" * 64
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:cloister:report:v1"
MAX_SEAL_BYTES = 1_000_000
_HEX = re.compile(r"[0-9a-f]{64}")
# A file in the report's own folder: nothing that leads out of it.
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\0\n]{1,200}")
_OWN = re.compile(r"<code>([0-9a-f]{64})</code></p></header>")


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def seal(files: Mapping[str, bytes], key: SigningKey, *, at: str) -> bytes:
    """The envelope over these files, by name.

    Raises:
      ValueError: A name is not that of a plain file.
    """
    for name in files:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a plain file name, got {name!r}")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest(content)}}
            for name, content in sorted(files.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"at": at, "signer": key.public_key.hex()},
    }
    envelope = Envelope(rfc8785.dumps(statement), PAYLOAD_TYPE, {})  # type: ignore[arg-type]
    envelope.signatures[key.key_id] = Signature(key.key_id, key.sign(envelope.pae()).hex())
    line: bytes = rfc8785.dumps(envelope.to_dict())
    return line + b"\n"


def open_seal(content: bytes, public_key: bytes) -> dict[str, str]:
    """Name -> SHA-256 of every file that the owner of `public_key` signed for.

    Raises:
      VerificationError: It is no seal, or another key's.
    """
    problem = VerificationError("expected the signature of a report, got something else")
    if len(content) > MAX_SEAL_BYTES:
        raise problem
    try:
        loaded = json.loads(content)
        payload = base64.b64decode(loaded["payload"], validate=True)
        (signature,) = loaded["signatures"]
        signer, signed = signature["keyid"], base64.b64decode(signature["sig"], validate=True)
        is_ours = loaded["payloadType"] == PAYLOAD_TYPE
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise problem from None
    if not is_ours:
        raise problem
    if signer != key_id(public_key):
        raise VerificationError(
            f"expected a signature by key {key_id(public_key)[:16]}, got one by"
            f" {str(signer)[:16]!r}",
            hint="ask the signer for the public key by another way than the report",
        )
    verify(public_key, Envelope(payload, PAYLOAD_TYPE, {}).pae(), signed)
    return _subjects(payload, problem)


def _subjects(payload: bytes, problem: VerificationError) -> dict[str, str]:
    try:
        statement = json.loads(payload)
        if statement["predicateType"] != PREDICATE_TYPE or statement["_type"] != STATEMENT_TYPE:
            raise problem
        named = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise problem from None
    if not all(
        isinstance(name, str) and _NAME.fullmatch(name) and _HEX.fullmatch(str(value))
        for name, value in named.items()
    ):
        raise problem
    return named


def check_own_digest(page: bytes) -> str:
    """The page's own digest, which must fit it.

    Raises:
      VerificationError: There is none, or the page was changed.
    """
    found = _OWN.search(page.decode("utf-8", errors="replace"))
    if found is None:
        raise VerificationError("expected a report that carries its own SHA-256, got none")
    own = found[1]
    if digest(page.replace(own.encode(), EMPTY_DIGEST.encode(), 1)) != own:
        raise VerificationError("the page was changed: it does not hash to the SHA-256 in it")
    return own


def check_files(folder: Path, named: Mapping[str, str]) -> None:
    """Check that every file that was signed for lies in `folder` as it was.

    Raises:
      VerificationError: One is missing or changed; it is named.
    """
    for name, expected in sorted(named.items()):
        try:
            content = (folder / name).read_bytes()
        except OSError:
            raise VerificationError(f"{name} was signed for and is not there") from None
        if digest(content) != expected:
            raise VerificationError(f"{name} was changed: it is not what was signed for")
