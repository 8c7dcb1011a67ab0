"""Time stamps (RFC 3161) on checkpoints: that a log of this size and root existed by a time.

A stamp is a statement by an authority that neither operates the log nor takes part. In the folder
`timestamps` of a log stand, for each stamp, the checkpoint as it was stamped and the answer:

```
timestamps/42-3f2a91c0d4e5b6a7.checkpoint   the stamped bytes: a checkpoint, signed by the log
timestamps/42-3f2a91c0d4e5b6a7.tsr          the answer, a DER TimeStampResp
```

`openssl ts -verify -data X.checkpoint -in X.tsr -CAfile roots.pem` reads both, too. What a stamp
adds to a checkpoint's signature: the operator cannot date it back, nor, once somebody else holds
the stamp, drop what it had signed by then. It says nothing of what the entries say.

Needs `rfc3161-client` (extra `timestamps`); the network only to ask for a stamp.
"""

import hashlib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography import x509

from privacy.audit.checkpoint import Checkpoint, parse_checkpoint
from privacy.audit.note import MAX_NOTE_BYTES, Note
from privacy.durable import replace_file, sync_folder
from privacy.errors import ConfigError, TransportError, VerificationError

FOLDER = "timestamps"
MAX_ANSWER_BYTES = 100_000
_ANSWER, _CHECKPOINT = ".tsr", ".checkpoint"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """A stamp as it lies in the folder; `check_stamp` says whether it is one.

    Attributes:
      path: The answer's file.
      note: The checkpoint that was stamped.
      answer: What the authority answered, DER.
    """

    path: Path
    note: str
    answer: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamped:
    """A checkpoint and when an authority saw it.

    Attributes:
      checkpoint: The checkpoint; whether the log signed it, its keys say.
      at: The authority's time.
      authority: Name in the authority's certificate.
    """

    checkpoint: Checkpoint
    at: datetime
    authority: str


def ask(note: str, url: str, roots: Sequence[x509.Certificate]) -> bytes:
    """Have the authority at `url` stamp a checkpoint, check its answer, and return it.

    Without `roots` the answer is only known to be about these bytes and this question.

    Raises:
      ConfigError: The address is no http or https one, or the extra is missing.
      TransportError: The authority cannot be reached or refuses.
      VerificationError: Its answer is none, is about something else, or does not verify.
    """
    client = _client()
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"expected the address of an authority, http(s)://..., got {url!r}")
    question = (
        client.TimestampRequestBuilder()
        .data(note.encode())
        .hash_algorithm(client.HashAlgorithm.SHA256)
        .build()
    )
    answer = _post(url, question.as_bytes())
    found = _decoded(client, answer)
    if found.tst_info.nonce != question.nonce:
        raise VerificationError("expected a stamp for this request, got one for another")
    if found.tst_info.message_imprint.message != question.message_imprint.message:
        raise VerificationError("expected a stamp over this checkpoint, got one over other bytes")
    if roots:
        check_stamp(Stamp(path=Path(), note=note, answer=answer), roots)
    return answer


def keep(log: Path, note: str, answer: bytes) -> Path:
    """Write a stamp into the log's folder, durably; returns the answer's file."""
    folder = log / FOLDER
    folder.mkdir(exist_ok=True)
    size = parse_checkpoint(Note.parse(note).text).size
    # By the answer's hash: two authorities may stamp one checkpoint.
    path = folder / f"{size}-{hashlib.sha256(answer).hexdigest()[:16]}{_ANSWER}"
    replace_file(path.with_suffix(_CHECKPOINT), note.encode())
    replace_file(path, answer)
    sync_folder(folder)
    sync_folder(log)
    return path


def read_stamps(log: Path) -> list[Stamp]:
    """The stamps beside a log, in the order of their checkpoints.

    Raises:
      VerificationError: A stamp lacks its checkpoint, or one of the two is far too long.
    """
    stamps = []
    for path in sorted((log / FOLDER).glob(f"*{_ANSWER}")):
        with path.open("rb") as opened:
            answer = opened.read(MAX_ANSWER_BYTES + 1)
        beside = path.with_suffix(_CHECKPOINT)
        try:
            with beside.open("rb") as opened:
                note = opened.read(MAX_NOTE_BYTES + 1).decode()
        except FileNotFoundError:
            raise VerificationError(f"expected the stamped checkpoint in {beside}") from None
        except UnicodeDecodeError:
            raise VerificationError(f"expected a checkpoint in {beside}") from None
        if len(answer) > MAX_ANSWER_BYTES:
            raise VerificationError(f"expected at most {MAX_ANSWER_BYTES} bytes in {path}")
        try:
            size = parse_checkpoint(Note.parse(note).text).size
        except VerificationError as error:
            raise VerificationError(f"{beside}: {error}") from None
        stamps.append((size, Stamp(path=path, note=note, answer=answer)))
    return [stamp for _, stamp in sorted(stamps, key=lambda pair: pair[0])]


def read_roots(path: Path) -> list[x509.Certificate]:
    """Certificates of authorities' roots, PEM.

    Raises:
      ConfigError: The file cannot be read or holds none.
    """
    try:
        roots = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"expected certificates in PEM in {path}") from None
    return list(dict.fromkeys(roots))


def check_stamp(stamp: Stamp, roots: Sequence[x509.Certificate]) -> Stamped:
    """Check a stamp against roots, offline.

    The authority's certificate has to be valid at the stamp's time, not now: a stamp outlives it.

    Raises:
      VerificationError: No chain leads to a root, the certificate is not for time stamps, the
        signature does not verify, or the stamp is over other bytes.
      ConfigError: The extra is missing.
    """
    client = _client()
    if not roots:
        raise ConfigError("expected the certificate of an authority's root, got none")
    where = stamp.path.name or "the stamp"
    found = _decoded(client, stamp.answer)
    builder = client.VerifierBuilder(roots=list(roots))
    try:
        # Only what it returns True for counts; everything else raises.
        is_good = builder.build().verify_message(found, stamp.note.encode())
        at, certificates = found.tst_info.gen_time, found.signed_data.certificates
        signer = next(iter(found.signed_data.signer_infos))
        # The certificates of a token are not signed: anybody can add one with the same issuer and
        # serial, and another name in it.
        leaves = [
            certificate
            for certificate in map(x509.load_der_x509_certificate, certificates)
            if (certificate.issuer, certificate.serial_number)
            == (signer.issuer, signer.serial_number)
        ]
    except (client.VerificationError, ValueError, StopIteration) as error:
        raise VerificationError(
            f"{where} does not verify: {error}",
            hint="check that --tsa-roots holds the root of the authority that stamped",
        ) from None
    if is_good is not True:
        raise VerificationError(f"{where} does not verify")
    if len(leaves) != 1:
        raise VerificationError(
            f"expected one certificate of its signer in {where}, got {len(leaves)}"
        )
    return Stamped(
        checkpoint=parse_checkpoint(Note.parse(stamp.note).text),
        at=at.astimezone(UTC),
        authority=leaves[0].subject.rfc4514_string(),
    )


def _client() -> ModuleType:
    try:
        import rfc3161_client
    except ImportError:
        raise ConfigError(
            "time stamps need the extra timestamps", hint="pip install 'cloister[timestamps]'"
        ) from None
    module: ModuleType = rfc3161_client
    return module


def _decoded(client: ModuleType, answer: bytes) -> Any:  # noqa: ANN401  of an extra
    try:
        found = client.decode_timestamp_response(answer)
        status = client.PKIStatus(found.status)
        if status != client.PKIStatus.GRANTED:
            raise VerificationError(f"the authority answered {status.name.lower()}, not granted")
        _ = found.tst_info.nonce  # a malformed token shows here
    except ValueError as error:
        raise VerificationError(f"expected a time stamp (RFC 3161): {error}") from None
    return found


def _post(url: str, question: bytes) -> bytes:
    request = urllib.request.Request(  # noqa: S310  the scheme was checked
        url,
        data=question,
        headers={"Content-Type": "application/timestamp-query"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            content: bytes = answer.read(MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise TransportError(f"{url} answered {error.code}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TransportError(f"{url} cannot be reached: {type(reason).__name__}") from None
    if len(content) > MAX_ANSWER_BYTES:
        raise VerificationError(f"expected a stamp of at most {MAX_ANSWER_BYTES} bytes")
    return content
