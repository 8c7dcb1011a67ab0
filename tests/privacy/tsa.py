"""A time-stamping authority for tests: `openssl ts` behind a real HTTP server on this machine."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CONFIG = """\
[tsa]
default_tsa = one
[one]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
certs = {folder}/certs.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """An authority with a root of its own.

    Args:
      folder: For its keys and questions.
      valid_for: From yesterday on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        valid_for: timedelta = timedelta(days=30),
    ) -> None:
        self.folder = folder
        folder.mkdir()
        self.num_asked = 0
        self.status = 200
        self.answer: bytes | None = None
        root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"root {folder.name}")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tsa {folder.name}")])
        begin = datetime.now(UTC) - timedelta(days=1)
        root = (
            _builder(root_name, root_name, root_key, begin, timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(root_key, hashes.SHA256())
        )
        leaf = (
            _builder(name, root_name, key, begin, valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
            )
            .sign(root_key, hashes.SHA256())
        )
        self.roots = folder / "root.pem"
        self.roots.write_bytes(root.public_bytes(Encoding.PEM))
        for file in ("tsa.pem", "certs.pem"):
            (folder / file).write_bytes(leaf.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa.key").write_bytes(pem)
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))

    def add_certificate(self, name: str) -> None:
        """Put a certificate of this name into every token, with the signer's issuer and serial."""
        certificates = self.folder / "certs.pem"
        leaf = x509.load_pem_x509_certificate((self.folder / "tsa.pem").read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(leaf.issuer)
            .public_key(key.public_key())
            .serial_number(leaf.serial_number)
            .not_valid_before(leaf.not_valid_before_utc)
            .not_valid_after(leaf.not_valid_after_utc)
        )
        # With those it is the longer one: DER sorts a set, `openssl ts` does not.
        for extension in leaf.extensions:
            made = made.add_extension(extension.value, critical=extension.critical)
        added = made.sign(key, hashes.SHA256())
        certificates.write_bytes(certificates.read_bytes() + added.public_bytes(Encoding.PEM))

    def stamp(self, question: bytes) -> bytes:
        """The answer to a TimeStampReq."""
        self.num_asked += 1
        asked, answer = self.folder / "question.tsq", self.folder / "answer.tsr"
        asked.write_bytes(question)
        command = ["openssl", "ts", "-reply", "-config", str(self.folder / "tsa.cnf")]
        command += ["-queryfile", str(asked), "-out", str(answer)]
        subprocess.run(command, check=True, capture_output=True)
        return answer.read_bytes()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Its address while it serves."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = self.rfile.read(int(self.headers["Content-Length"]))
                kind = self.headers["Content-Type"]
                content = (
                    authority.answer if authority.answer is not None else authority.stamp(question)
                )
                self.send_response(
                    authority.status if kind == "application/timestamp-query" else 415
                )
                self.send_header("Content-Type", "application/timestamp-reply")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    valid_for: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + valid_for)
    )
