"""Fixtures: an authority, and a gateway that speaks TLS with a certificate of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import data, new_user
from tests.support.certificates import Authority
from tests.support.gateway import GatewayProcess
from tests.support.tls_peer import authority

__all__ = ["data", "new_user"]


def secured(data: Path, signer: Authority, **options: object) -> GatewayProcess:
    """A gateway of its own certificate, in the directory beside its data."""
    certificate, key = data.parent / f"{data.name}.pem", data.parent / f"{data.name}-key.pem"
    if not certificate.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        signer.issue(certificate, key)
    made = GatewayProcess(data, **{"tls.certificate": certificate, "tls.key": key, **options})
    made.trust = signer.client()
    return made


@pytest.fixture(scope="session")
def signer() -> Authority:
    """The authority of all tests."""
    return authority()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, signer: Authority) -> Iterator[GatewayProcess]:
    """A gateway that speaks TLS, shared by the tests of a module; its log is checked at the end."""
    with secured(tmp_path_factory.mktemp("gateway") / "data", signer) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]
