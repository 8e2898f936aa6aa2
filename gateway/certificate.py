"""The certificate of the clients' port: two files, looked at before they are believed, read again when they change.

Between the configuration and ext/tls, which does the work. A pair that can't serve (one file of an old and one of a
new certificate, say) keeps the one that was good; trust.py says so once and counts it.

Invariants: no byte of the key is kept here or said in any error. Cost: two stats a second.
"""

from __future__ import annotations

import datetime
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, rsa

from ext.tls import Context

WARN_S = 14 * 86_400  # an operator has so long to renew
RSA_BITS_MIN = 2_048
_Stamp = tuple[tuple[int, int, int], tuple[int, int, int]]


UNKNOWN_AUTHORITY = "FILE"


def seen_by_clients(certificate: Path, url: str) -> tuple[str, str]:
    """The URL under which a client on this machine believes the certificate, and the file of the authority that it
    must be given: none for an authority of the system's, the certificate itself where it brings its own."""
    chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    parts = urlsplit(url)
    try:
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
        hosts += [name for name in names.get_values_for_type(x509.DNSName) if "*" not in name]
    except x509.ExtensionNotFound:
        hosts = []
    host = parts.hostname or ""
    if hosts and host not in hosts:
        host = next((near for near in ("127.0.0.1", "localhost", "::1") if near in hosts), hosts[-1])
    url = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}{parts.path}"
    if chain[-1].issuer == chain[-1].subject:
        return url, str(certificate)
    issuer = chain[-1].issuer.public_bytes()
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    known = any(issuer in one for one in found)  # as bytes: the system holds some that the parser complains about
    return url, "" if known else UNKNOWN_AUTHORITY


class CertificateError(Exception):
    """A certificate or key that can't serve; the text names the option, the file and what to change."""


class Certificate:
    """The pair in force: `context` is for the poller."""

    def __init__(self, certificate: str, key: str, minimum: str, now: Callable[[], float] = time.time) -> None:
        self._certificate, self._key, self._minimum = Path(certificate), Path(key), minimum
        self._now = now
        self._stamp: _Stamp | None = None
        self.context: Context
        self.expires_s = 0
        self._leaf: x509.Certificate
        self.warnings: list[str] = []  # of the pair in force: what works and should be mended
        self.load()

    def load(self) -> None:
        """Reads both files; on any trouble everything stays as it was and CertificateError is raised."""
        self._stamp = self._look()
        chain = self._chain()
        self._check_key(chain[0])
        try:
            context = Context(self._certificate, self._key, self._minimum)
        except (OSError, ValueError) as error:
            raise CertificateError(str(error)) from None
        self.context = context
        self.expires_s = int(min(one.not_valid_after_utc for one in chain).timestamp())
        self._leaf = chain[0]
        self.load_warnings()

    def reload_if_changed(self) -> bool:
        """True if another pair is in force; called on a timer."""
        try:
            stamp = self._look()
        except CertificateError:
            return False  # in the middle of being replaced: the next look will see it
        if stamp == self._stamp:
            return False
        self.load()  # complains about a pair once, not every second
        return True

    @property
    def left_s(self) -> float:
        """Time until it expires; below zero it has."""
        return self.expires_s - self._now()

    # ---- looking at files ------------------------------------------------------------------------------------------

    def _look(self) -> _Stamp:
        stamps = []
        for option, path in (("tls.certificate", self._certificate), ("tls.key", self._key)):
            try:
                status = path.stat()
            except OSError as error:
                raise CertificateError(f"{option} = {str(path)!r}: {error.strerror}") from None
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return stamps[0], stamps[1]

    def _chain(self) -> list[x509.Certificate]:
        option = f"tls.certificate = {str(self._certificate)!r}"
        try:
            chain = x509.load_pem_x509_certificates(self._certificate.read_bytes())
        except OSError as error:
            raise CertificateError(f"{option}: {error.strerror}") from None
        except ValueError:
            raise CertificateError(f"{option}: holds no certificate in PEM") from None
        public = chain[0].public_key()
        if isinstance(public, rsa.RSAPublicKey) and public.key_size < RSA_BITS_MIN:
            raise CertificateError(f"{option}: RSA of {public.key_size} bits; at least {RSA_BITS_MIN}, better P-256")
        return chain

    def _check_key(self, certificate: x509.Certificate) -> None:
        option = f"tls.key = {str(self._key)!r}"
        try:
            private = serialization.load_pem_private_key(self._key.read_bytes(), None)
        except OSError as error:
            raise CertificateError(f"{option}: {error.strerror}") from None
        except TypeError:
            raise CertificateError(f"{option}: is locked with a passphrase; give the key without one") from None
        except Exception:  # whatever a foreign file makes the library say
            raise CertificateError(f"{option}: holds no private key in PEM") from None
        if isinstance(private, dsa.DSAPrivateKey) or not hasattr(private, "sign"):
            raise CertificateError(f"{option}: must be P-256, P-384, Ed25519 or RSA of at least {RSA_BITS_MIN} bits")
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
            raise CertificateError(
                f"{option}: is not the key of the first certificate in {str(self._certificate)!r};"
                " give both of one pair, the server's own certificate before those that signed it"
            )

    def load_warnings(self) -> None:
        """Judges the pair in force anew: time passes."""
        try:
            mode = self._key.stat().st_mode
        except OSError:
            mode = 0
        self.warnings = self._warnings(self._leaf, mode)

    def _warnings(self, certificate: x509.Certificate, mode: int) -> list[str]:
        found = []
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            found.append(f"tls.key = {str(self._key)!r} can be read by everybody on this machine: chmod o-rwx")
        now = datetime.datetime.fromtimestamp(self._now(), datetime.UTC)
        if certificate.not_valid_before_utc > now:
            found.append(f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
        if self.left_s < 0:
            found.append("the certificate has expired: clients will refuse it")
        elif self.left_s < WARN_S:
            found.append(f"the certificate expires in {self.left_s / 86_400:.1f} days: renew it")
        if isinstance(certificate.public_key(), rsa.RSAPublicKey):
            found.append(
                "an RSA key costs each handshake many times what P-256 does; take P-256 where connects are many"
            )
        return found
