"""Certificates of tests, made when they are needed: an authority, and server certificates that it has signed."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_serial = iter(range(1_000, 1 << 30))


class Authority:
    """Signs certificates for 127.0.0.1 and localhost; `ca` is the file that a client trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        self.certificate = self._signed(self._name, self._key, 30, authority=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, subject: x509.Name, key: Key, days: float, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(next(_serial))
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, certificate: Path, key: Path, days: float = 20, kind: str = "ec") -> x509.Certificate:
        """Writes a chain and its key, each replaced in one step; the key first."""
        private: Key = (
            ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65_537, 2_048)
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway of a test")])
        made = self._signed(subject, private, days)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        replace(key, pem, 0o600)
        chain = [one.public_bytes(serialization.Encoding.PEM) for one in (made, self.certificate)]
        replace(certificate, b"".join(chain), 0o644)
        return made

    def pair(self, name: str = "server", days: float = 20, kind: str = "ec") -> tuple[Path, Path]:
        """A new certificate and its key, as files."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        self.issue(certificate, key, days, kind)
        return certificate, key

    def client(self, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """What a client needs to trust the authority."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.maximum_version = most
        return context


def replace(path: Path, data: bytes, mode: int) -> None:
    """Writes a file aside and renames it into place."""
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    aside.replace(path)
