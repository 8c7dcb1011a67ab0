"""The seal of a report: digests of its files, signed as a detached DSSE envelope.

The envelope holds an in-toto Statement whose subjects are the page and what lies beside it, by
SHA-256; its predicate says when it was signed, by the signer's clock, and of which log. The page
carries a digest of its own too, over itself with zeros in that place: it shows an accident, not a
forger. Only the signature says whose report it is.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.signer._signature import Signature

from privacy.audit.checkpoint import Checkpoint
from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey, key_id, verify

EMPTY_DIGEST = "0" * 64
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:cloister:report:v1"
SUFFIX = ".dsse"
MAX_SEAL_BYTES = 1_000_000
_HEX = re.compile(r"[0-9a-f]{64}")
# A file in the report's own folder: nothing that leads out of it.
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\0\n]{1,200}")
_AT = re.compile(r"[0-9T:Z-]{1,40}")
_OWN = re.compile(r"<code>([0-9a-f]{64})</code></p></header>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """What somebody signed for.

    Attributes:
      files: Name -> SHA-256.
      at: When, by the signer's clock.
      log: Which log the files are about; None of what is about no log, such as declarations.
    """

    files: Mapping[str, str]
    at: str
    log: Checkpoint | None


def path_of(file: Path) -> Path:
    """Where the seal of a file lies."""
    return file.with_name(file.name + SUFFIX)


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def seal(
    files: Mapping[str, bytes], key: SigningKey, *, at: str, log: Checkpoint | None = None
) -> bytes:
    """The envelope over these files, by name.

    Raises:
      ValueError: A name is not that of a plain file.
    """
    for name in files:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a plain file name, got {name!r}")
    predicate: dict[str, object] = {"at": at, "signer": key.public_key.hex()}
    if log is not None:
        predicate["log"] = {"origin": log.origin, "size": log.size, "root": log.root.hex()}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest(content)}}
            for name, content in sorted(files.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    envelope = Envelope(rfc8785.dumps(statement), PAYLOAD_TYPE, {})  # type: ignore[arg-type]
    envelope.signatures[key.key_id] = Signature(key.key_id, key.sign(envelope.pae()).hex())
    line: bytes = rfc8785.dumps(envelope.to_dict())
    return line + b"\n"


def open_seal(content: bytes, public_key: bytes) -> Sealed:
    """Everything that the owner of `public_key` signed for.

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
    return _read(payload, problem)


def _read(payload: bytes, problem: VerificationError) -> Sealed:
    try:
        statement = json.loads(payload)
        if statement["predicateType"] != PREDICATE_TYPE or statement["_type"] != STATEMENT_TYPE:
            raise problem
        named = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
        at, log = statement["predicate"]["at"], _log(statement["predicate"].get("log"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise problem from None
    if not isinstance(at, str) or not _AT.fullmatch(at):
        raise problem
    if not all(
        isinstance(name, str) and _NAME.fullmatch(name) and _HEX.fullmatch(str(value))
        for name, value in named.items()
    ):
        raise problem
    return Sealed(files=named, at=at, log=log)


def _log(said: object) -> Checkpoint | None:
    """The log that a seal names.

    Raises:
      ValueError: It names none, and yet something.
    """
    if said is None:
        return None
    match said:
        case {"origin": str(origin), "size": int(size), "root": str(root)}:
            return Checkpoint(origin=origin, size=size, root=bytes.fromhex(root))
    raise ValueError("expected origin, size and root of a log")


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
