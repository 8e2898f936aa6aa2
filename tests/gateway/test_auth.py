"""Tokens: the three algorithms are taken; everything forged, stale, meant for others or misshapen is refused."""

import base64
import json
import stat
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import auth
from tests.support.tokens import Issuer

ISSUER = Issuer()
OTHER = Issuer()


@pytest.fixture
def verifier(tmp_path: Path) -> auth.Verifier:
    return auth.Verifier(auth.KeySet(ISSUER.write(tmp_path / "keys.json")), "gonets", "", 30)


@pytest.mark.parametrize("kid", ["ed", "ec", "rsa"])
def test_each_algorithm_is_taken(verifier: auth.Verifier, kid: str) -> None:
    identity = verifier.verify(ISSUER.token(77, kid))
    assert identity.user == 77 and identity.device is None
    assert abs(identity.expires_s - (time.time() + 3_630)) < 5
    assert verifier.verify(ISSUER.token(78, kid, headers={})).user == 78  # one key of its kind: no kid needed
    assert verifier.verify(ISSUER.token(2**53 - 1, kid, device=5, aud=["other", "gonets"])).device == 5


def unsigned(header: dict[str, object], claims: dict[str, object]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join(parts) + "."


def confused() -> str:
    """HMAC with the public key's PEM as the secret: what a library that believes `alg` would accept."""
    private = ISSUER.keys["rsa"][1]
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    import hashlib
    import hmac

    head = unsigned({"alg": "HS256", "kid": "rsa"}, {"sub": "1", "aud": "gonets", "exp": int(time.time()) + 99})[:-1]
    signature = hmac.new(pem, head.encode(), hashlib.sha256).digest()
    return head + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


GOOD = {"sub": "1", "aud": "gonets", "exp": int(time.time()) + 9_999}
NOW = int(time.time())


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (unsigned({"alg": "none"}, GOOD), "no key"),
        (unsigned({"alg": "none", "kid": "ed"}, GOOD), "no key"),
        (confused(), "no key"),
        (OTHER.token(1), "signature"),
        (ISSUER.token(1)[:-6] + "AAAAAA", "signature"),
        (ISSUER.token(1, headers={"kid": "nobody"}), "no key"),
        (ISSUER.token(1, headers={"kid": "rsa"}), "no key"),
        (ISSUER.token(1, headers={"kid": "ed", "crit": ["x"], "x": 1}), ""),
        (ISSUER.token(1, exp=NOW - 31), "expired"),
        (ISSUER.token(1, exp=None), "no exp"),
        (ISSUER.token(1, exp="soon"), ""),
        (ISSUER.token(1, nbf=NOW + 86_400), "not valid yet"),
        (ISSUER.token(1, aud="elsewhere"), "audience"),
        (ISSUER.token(1, aud=None), ""),
        (ISSUER.token("0"), "sub"),
        (ISSUER.token("-4"), "sub"),
        (ISSUER.token("01"), "sub"),
        (ISSUER.token(" 7"), "sub"),
        (ISSUER.token("7\n"), "sub"),
        (ISSUER.token("٧"), "sub"),
        (ISSUER.token("1e3"), "sub"),
        (ISSUER.token(2**53), "sub"),
        (ISSUER.token("9" * 40), "sub"),
        (ISSUER.token(1, device=0), "device"),
        (ISSUER.token(1, device="1"), "device"),
        ("", "malformed"),
        ("a.b.c", "malformed"),
        ("....", "malformed"),
        ("é.é.é", "malformed"),
        ("x" * 9_000, "malformed"),
        (unsigned({"alg": ["EdDSA"], "kid": {"a": 1}}, GOOD), "no key"),
    ],
)
def test_a_bad_token_is_refused(verifier: auth.Verifier, token: str, words: str) -> None:
    with pytest.raises(auth.TokenRefused) as caught:
        verifier.verify(token)
    assert words in caught.value.message
    assert caught.value.expired is (words == "expired")
    assert not token or token not in str(caught.value)


def test_leeway_bounds_the_issuers_clock(verifier: auth.Verifier) -> None:
    now = int(time.time())  # not NOW: the tests before this one may have taken longer than the leeway
    assert verifier.verify(ISSUER.token(1, exp=now - 10, nbf=now + 10)).user == 1


def test_the_issuer_is_checked_when_configured(tmp_path: Path) -> None:
    verifier = auth.Verifier(auth.KeySet(ISSUER.write(tmp_path / "keys.json")), "gonets", "https://issuer", 30)
    assert verifier.verify(ISSUER.token(1, iss="https://issuer")).user == 1
    for token in (ISSUER.token(1), ISSUER.token(1, iss="https://evil")):
        with pytest.raises(auth.TokenRefused, match="iss"):
            verifier.verify(token)


def test_a_changed_file_is_read_and_a_broken_one_keeps_the_old_keys(tmp_path: Path) -> None:
    path = ISSUER.write(tmp_path / "keys.json", "ed")
    keys = auth.KeySet(path)
    verifier = auth.Verifier(keys, "gonets", "", 30)
    assert keys.reload_if_changed() is False
    OTHER.write(path, "ec", "rsa")
    assert keys.reload_if_changed() is True
    assert verifier.verify(OTHER.token(3, "ec")).user == 3
    with pytest.raises(auth.TokenRefused):
        verifier.verify(ISSUER.token(3))
    path.write_text("{")
    with pytest.raises(auth.KeysError, match="not a JWKS"):
        keys.reload_if_changed()
    assert keys.reload_if_changed() is False  # complained about once
    assert verifier.verify(OTHER.token(3, "ec")).user == 3


def private_jwk() -> dict[str, object]:
    return {**jwt.get_algorithm_by_name("EdDSA").to_jwk(ISSUER.keys["ed"][1], as_dict=True), "kid": "p"}


def p384() -> dict[str, object]:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return dict(jwt.get_algorithm_by_name("ES384").to_jwk(key, as_dict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JWKS"),
        ("[]", "not a JWKS"),
        ('{"keys": 3}', "not a JWKS"),
        ('{"keys": []}', "no key"),
        ('{"keys": [3]}', "not an object"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "symmetric"),
        ('{"keys": [{"kty": "EC", "crv": "P-256"}]}', "can't be read"),
        ('{"keys": [{"kty": "new"}]}', "can't be read"),
        (json.dumps({"keys": [private_jwk()]}), "private"),
        (json.dumps({"keys": [p384()]}), "P-256"),
        (json.dumps({"keys": [{**ISSUER.public("rsa"), "alg": "RS512"}]}), "RS256"),
        (json.dumps({"keys": [ISSUER.public("ed"), ISSUER.public("ed")]}), "share a kid"),
        (json.dumps({"keys": [{**ISSUER.public("rsa"), "use": "enc"}]}), "no key"),
    ],
)
def test_a_key_file_that_can_not_serve_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(auth.KeysError) as caught:
        auth.KeySet(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_the_development_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    keys = auth.open_keys("", tmp_path)
    path = tmp_path / auth.DEVELOPMENT_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    token = auth.development_token(tmp_path, 9, 60, "gonets", "", 4)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [auth.DEVELOPMENT_KEY]
    identity = auth.Verifier(keys, "gonets", "", 0).verify(token)
    assert (identity.user, identity.device) == (9, 4)
    path.write_text("no key")
    with pytest.raises(auth.KeysError, match="remove it"):
        auth.open_keys("", tmp_path)
