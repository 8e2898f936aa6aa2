"""Whom the gateway believes and by what: keys of tokens, revocations, the certificate of its port.

Made by server.py before anything is served, turned by its timer once a second and told of a reload. Each of the three
may change while sessions are open: new keys judge the next hello, a revocation ends the sessions that it concerns, a
certificate is shown to the next connection. The process of the backends' door (processes/api.py) has one without
sessions and certificate, whose revocations that door asks for itself.

Invariants: what can't be used leaves what was in force in force, is logged once and counted; no token, key or claim is
ever in a log line. Cost: a few stats a second; a fetch an interval where a document is at a URL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine import Config
from gateway import close_codes
from gateway.auth import KeysError, KeySet, open_keys
from gateway.certificate import Certificate, CertificateError
from gateway.fetch import FetchError, is_url, url_problem
from gateway.issuer import IssuerKeys
from gateway.remote import Remote
from gateway.revocation import DOCUMENT_BYTES_MAX, Revoked, RevokedError, Sweep, parse_revoked
from gateway.session import log

if TYPE_CHECKING:
    from gateway.session import Door

COPY = "revoked.copy"
REMIND_S = 86_400  # between two lines about a certificate that should be renewed


class TrustError(Exception):
    """Something to judge by can't be had at start; one line that says what to change."""


class Trust:
    """Keys, revocations and certificate; `open` before there is a loop, `begin` on it."""

    def __init__(self, config: Config, data: Path, now: Callable[[], float] = time.time) -> None:
        self._auth, self._tls, self._data, self._now = config.auth, config.tls, data, now
        self.keys: KeySet | IssuerKeys
        self.revoked = Revoked()
        self.certificate: Certificate | None = None
        self._revoked_file: _RevokedFile | None = None
        self._revoked_remote: Remote[Revoked] | None = None
        self._sweeping = False
        self._reminded_s = 0.0
        self.key_failures = self.revoked_failures = self.certificate_failures = 0
        self._door: Door | None = None
        self._sweep: Sweep | None = None
        self._answered: Callable[[], None]

    def open(self) -> None:
        """Reads and fetches all; TrustError if something can't be had."""
        try:
            self.keys = self._open_keys()
            self._open_revoked()
            if self._tls.certificate:
                self.certificate = Certificate(self._tls.certificate, self._tls.key, self._tls.minimum, self._now)
        except (KeysError, RevokedError, CertificateError, FetchError) as error:
            raise TrustError(str(error)) from None

    def _open_keys(self) -> KeySet | IssuerKeys:
        auth = self._auth
        if not is_url(auth.keys):
            return open_keys(auth.keys, self._data)
        if problem := url_problem(auth.keys):
            raise KeysError(f"auth.keys = {auth.keys!r} {problem}")
        keys = IssuerKeys(
            auth.keys,
            self._data,
            ca=auth.keys_ca,
            refresh_s_min=auth.keys_refresh_s_min,
            refresh_s_max=auth.keys_refresh_s_max,
            age_s_max=auth.keys_age_s_max,
        )
        try:
            keys.remote.open()
        except FetchError as error:
            raise KeysError(f"auth.keys: {error}") from None
        return keys

    def _open_revoked(self) -> None:
        where = self._auth.revoked
        if not where:
            return
        if not is_url(where):
            self._revoked_file = _RevokedFile(Path(where))
            self.revoked = self._revoked_file.load()
            return
        if problem := url_problem(where):
            raise RevokedError(f"auth.revoked = {where!r} {problem}")
        every_s = self._auth.revoked_refresh_s
        remote = Remote(
            where,
            self._data / COPY,
            parse_revoked,
            RevokedError,
            ca=self._auth.keys_ca,
            bytes_max=DOCUMENT_BYTES_MAX,
            refresh_s_min=every_s,
            refresh_s_max=every_s,
            age_s_max=self._auth.keys_age_s_max,
        )
        try:
            remote.open()
        except FetchError as error:
            raise RevokedError(f"auth.revoked: {error}") from None
        self._revoked_remote, self.revoked = remote, remote.value

    # ---- on the loop -----------------------------------------------------------------------------------------------

    def begin(self, door: Door | None, answered: Callable[[], None]) -> None:
        """The door is there, or there is none of sessions. `answered` is called when the issuer has answered: whoever
        waits for it goes on."""
        self._door, self._answered = door, answered
        if door is not None:
            self._sweep = Sweep(door.sessions, lambda session: door.end(session, close_codes.TOKEN_REVOKED))
        self._show_certificate("certificate in force")
        for name, remote in (("token keys", self._remote_keys), ("revocations", self._revoked_remote)):
            if remote is not None and remote.failing:
                log.warning(f"{name} are those of an earlier day", reason=remote.last_error, age_s=int(remote.age_s))

    @property
    def _remote_keys(self) -> Remote[list] | None:  # type: ignore[type-arg]
        return self.keys.remote if isinstance(self.keys, IssuerKeys) else None

    def second(self) -> None:
        """Looks whether something has changed."""
        self._look_at_keys()
        self._look_at_revoked()
        self._look_at_certificate(False)

    def reload(self) -> None:
        """SIGHUP: everything is looked at now."""
        self._look_at_keys()
        self._look_at_revoked()
        self._look_at_certificate(True)

    def close(self) -> None:
        """Nothing is fetched any more."""
        for remote in (self._remote_keys, self._revoked_remote):
            if remote is not None:
                remote.close()

    def _look_at_keys(self) -> None:
        if isinstance(self.keys, IssuerKeys):
            self.keys.remote.second(self._keys_fetched)
            return
        try:
            if self.keys.reload_if_changed():
                log.info("token keys read again", keys=len(self.keys.keys))
        except KeysError as error:
            self.key_failures += 1
            log.error("token keys unusable, the old ones stay", reason=str(error))

    def _keys_fetched(self, changed: bool) -> None:
        keys = self.keys
        assert isinstance(keys, IssuerKeys)
        if changed:
            log.info("token keys fetched", keys=len(keys.keys))
        elif keys.remote.failing:
            log.error(
                "token keys can't be fetched, the old ones stay",
                reason=keys.remote.last_error,
                age_s=int(keys.remote.age_s),
                until_age_s=self._auth.keys_age_s_max,
            )
        keys.answered()
        self._answered()

    def ask_issuer(self, kid: str | None) -> int | None:
        """About a key that no token has named yet, see IssuerKeys.ask; None where keys come from a file."""
        return self.keys.ask(kid, self._keys_fetched) if kid is not None and isinstance(self.keys, IssuerKeys) else None

    @property
    def is_blind(self) -> bool:
        """What is revoked is not known any more: the URL has not answered for too long."""
        return self._revoked_remote is not None and self._revoked_remote.is_too_old

    # ---- revocations -----------------------------------------------------------------------------------------------

    def _look_at_revoked(self) -> None:
        if self._revoked_remote is not None:
            self._revoked_remote.second(self._revoked_fetched)
        elif self._revoked_file is not None:
            try:
                found = self._revoked_file.load_if_changed()
            except RevokedError as error:
                self.revoked_failures += 1
                log.error("revocations unusable, the old ones stay", reason=str(error))
                return
            if found is not None:
                self._take(found)

    def _revoked_fetched(self, changed: bool) -> None:
        remote = self._revoked_remote
        assert remote is not None
        if changed:
            self._take(remote.value)
        elif remote.failing:
            log.error("revocations can't be fetched, the old ones stay", reason=remote.last_error)

    def _take(self, revoked: Revoked) -> None:
        """In force from now on; then the sessions concerned are ended."""
        old, self.revoked = self.revoked, revoked
        log.info("revocations read again", entries=revoked.entries)
        if self._sweep is None:
            return
        self._sweep.add(old, revoked)
        if not self._sweeping:
            self._sweeping = True
            self._turn()

    def _turn(self) -> None:
        if self._sweep is not None and self._sweep.run():
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._sweeping = False

    # ---- the certificate -------------------------------------------------------------------------------------------

    def _look_at_certificate(self, anyway: bool) -> None:
        certificate = self.certificate
        if certificate is None:
            return
        try:
            if anyway:
                certificate.load()
                self._show_certificate("certificate read again")
            elif certificate.reload_if_changed():
                self._show_certificate("certificate read again")
        except CertificateError as error:
            self.certificate_failures += 1
            log.error("certificate unusable, the old one stays", reason=str(error))
        if abs(self._now() - self._reminded_s) > REMIND_S:  # one that was sound when it was read runs out too
            certificate.load_warnings()
            self._warn(certificate)

    def _show_certificate(self, words: str) -> None:
        """To every connection from now on."""
        if self.certificate is not None and self._door is not None:
            self._door.poller.use_tls(self.certificate.context)
            log.info(words, left_s=int(self.certificate.left_s))
            self._warn(self.certificate)

    def _warn(self, certificate: Certificate) -> None:
        self._reminded_s = self._now()
        for warning in certificate.warnings:
            log.warning(warning)

    # ---- metrics ---------------------------------------------------------------------------------------------------

    def values(self) -> dict[str, float]:
        """What the metrics table asks for; what is not configured is left out."""
        keys = self._remote_keys
        values: dict[str, float] = {
            "token_keys": len(self.keys.keys),
            "token_key_reload_failures": self.key_failures + (keys.failures if keys is not None else 0),
        }
        if keys is not None:
            values["token_keys_age_seconds"] = keys.age_s
        if self._auth.revoked:
            remote = self._revoked_remote
            values["revoked_entries"] = self.revoked.entries
            values["revoked_sessions"] = self._sweep.ended if self._sweep is not None else 0
            values["revoked_reload_failures"] = self.revoked_failures + (remote.failures if remote is not None else 0)
            if remote is not None:
                values["revoked_age_seconds"] = remote.age_s
        if self.certificate is not None:
            values["tls_certificate_left_seconds"] = self.certificate.left_s
            values["tls_certificate_reload_failures"] = self.certificate_failures
        return values


class _RevokedFile:
    """A list of revocations in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None

    def _look(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def load(self) -> Revoked:
        """What it says; RevokedError if it can't be read."""
        try:
            self._stamp = self._look()
            with self._path.open("rb") as file:
                data = file.read(DOCUMENT_BYTES_MAX + 1)
        except OSError as error:
            raise RevokedError(f"auth.revoked = {str(self._path)!r}: {error.strerror}") from None
        try:
            return parse_revoked(data)
        except RevokedError as error:
            raise RevokedError(f"auth.revoked = {str(self._path)!r} {error}") from None

    def load_if_changed(self) -> Revoked | None:
        """None while it is as it was, or is being replaced."""
        try:
            if self._look() == self._stamp:
                return None
        except OSError:
            return None
        return self.load()


def check(config: Config, data: Path) -> None:
    """What `gonets config check` looks at beyond the values: TrustError if a start would fail for it."""
    trust = Trust(config, data)
    if config.auth.keys:
        trust.open()
        return
    try:
        trust._open_revoked()
        if config.tls.certificate:
            Certificate(config.tls.certificate, config.tls.key, config.tls.minimum)
    except (RevokedError, CertificateError) as error:
        raise TrustError(str(error)) from None
