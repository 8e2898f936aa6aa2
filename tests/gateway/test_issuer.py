"""Keys by URL and revocations, against a real web server on a loopback port and a real gateway."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.limits import ISSUER_DOCUMENT_BYTES_MAX
from gateway import auth
from gateway.fetch import FetchError, url_problem
from gateway.issuer import IssuerKeys
from gateway.revocation import Revoked, RevokedError, mark_of, parse_revoked
from tests.support.certificates import Authority
from tests.support.gateway import Device, GatewayProcess, running
from tests.support.issuer_site import IssuerSite
from tests.support.tokens import Issuer

ISSUER = Issuer()


def key_set(*kids: str) -> str:
    return json.dumps({"keys": [ISSUER.public(kid) for kid in kids]})


def keys_of(site: IssuerSite, data: Path, ca: str = "", age_s_max: int = 3_600) -> IssuerKeys:
    data.mkdir(exist_ok=True)
    return IssuerKeys(site.url, data, ca=ca, refresh_s_min=60, refresh_s_max=60, age_s_max=age_s_max)


@pytest.fixture
def site() -> Iterator[IssuerSite]:
    with IssuerSite() as made:
        made.body = key_set("ed")
        yield made


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.02)


def refused_hello(gateway: GatewayProcess, token: str, user: int = 1) -> tuple[dict[str, object], int]:
    """The error that answers a hello, and the close code."""
    device = Device(gateway.url)
    device.send("hello", token=token, device=1, protocol=1)
    error = device.expect("error")
    return error, device.closed()[0]


# ---- fetching --------------------------------------------------------------------------------------------------------


def test_https_with_a_named_authority(tmp_path: Path) -> None:
    signer = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signer.pair())
    with IssuerSite(context) as site:
        site.body = key_set("ed", "rsa")
        keys = keys_of(site, tmp_path / "data", ca=str(signer.ca))
        keys.remote.open()
        assert {key.kid for key in keys.keys} == {"ed", "rsa"}
        with pytest.raises(FetchError, match=r"(?i)certificate"):
            keys_of(site, tmp_path / "none").remote.open()


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (500, {}, b"", "answers 500"),
        (304, {}, b"", "answers 304"),
        (200, {}, b"nothing of the kind", "not a JWKS"),
        (200, {}, b'{"keys": []}', "no key"),
        (200, {}, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "symmetric"),
        (200, {}, b" " * (ISSUER_DOCUMENT_BYTES_MAX + 1), "the limit"),
        (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b", "compressed"),
        (302, {"Location": "http://example.org/keys"}, b"", "must be https"),
        (302, {"Location": "https://example.org/keys"}, b"", "must stay http"),
        (302, {"Location": "/keys.json"}, b"", "more than 3 redirects"),
        (302, {"Location": "file:///etc/passwd"}, b"", "must be https"),
        (302, {}, b"", "redirects"),
    ],
)
def test_what_is_no_key_set_is_said(
    site: IssuerSite, tmp_path: Path, status: int, headers: dict[str, str], body: bytes, words: str
) -> None:
    site.status, site.headers, site.body = status, headers, body
    with pytest.raises(FetchError, match=words):
        keys_of(site, tmp_path / "data").remote.open()
    assert site.asked <= 4


def test_a_site_that_drips_is_left_in_time(site: IssuerSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.remote.TIMEOUT_S", 0.5)
    site.drip = True
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"within 0\.5 s"):
        keys_of(site, tmp_path / "data").remote.open()
    assert time.monotonic() - began < 10


def test_a_start_without_the_issuer_takes_the_copy_if_it_is_young(site: IssuerSite, tmp_path: Path) -> None:
    keys_of(site, tmp_path / "data").remote.open()
    site.stop()
    again = keys_of(site, tmp_path / "data")
    again.remote.open()
    assert [key.kid for key in again.keys] == ["ed"] and again.remote.failing
    time.sleep(0.05)
    with pytest.raises(FetchError, match="old"):
        keys_of(site, tmp_path / "data", age_s_max=0).remote.open()
    with pytest.raises(FetchError, match="no copy"):
        keys_of(site, tmp_path / "elsewhere").remote.open()
    (copy,) = (tmp_path / "data").iterdir()
    copy.write_bytes(b"damaged")
    with pytest.raises(FetchError, match="can't be read"):
        keys_of(site, tmp_path / "data").remote.open()


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://issuer.example/keys", True),
        ("http://127.0.0.1:8/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost/keys", True),
        ("http://issuer.example/keys", False),
        ("http://127.0.0.1.example/keys", False),
        ("https://user:secret@issuer.example/", False),
        ("https://", False),
        ("https://[bad/", False),
        ("https://issuer.example:99999/", False),
    ],
)
def test_urls(url: str, fine: bool) -> None:
    assert (not url_problem(url)) is fine


# ---- a gateway whose keys are at a URL -------------------------------------------------------------------------------


def test_rotation_lets_the_first_hello_wait_and_made_up_keys_cost_one_request(site: IssuerSite, data: Path) -> None:
    with running(data, **{"auth.keys": site.url}) as gateway:
        waiting = [Device(gateway.url, encoding) for encoding in ("msgpack", "json") for _ in range(5)]
        known = Device(gateway.url)
        before = site.asked
        site.body, site.held = key_set("ec"), True
        for number, device in enumerate(waiting):
            device.send("hello", token=ISSUER.token(100 + number, "ec"), device=1, protocol=1)
            device.send("ping", id="behind")  # what comes behind a hello that waits, waits behind it
        known.hello(ISSUER.token(7, "ed"))  # its key is here: it doesn't wait for the issuer
        site.held = False
        for device in waiting:
            device.expect("welcome")
            device.expect("pong", id="behind")
        assert site.asked == before + 1
        error, code = refused_hello(gateway, ISSUER.token(8, "ed"))  # withdrawn; asked for only 30 s later
        assert (error["code"], error["retryable"], code) == ("unavailable", True, 4006)
        assert int(str(error["retry_after_ms"])) > 1_000 and site.asked == before + 1
        assert known.write("publish", user=9, text="goes on")["status"] == "appended"


def test_an_unknown_key_that_the_issuer_does_not_have_is_refused_for_good(site: IssuerSite, data: Path) -> None:
    with running(data, **{"auth.keys": site.url}) as gateway:
        before = site.asked
        for _ in range(3):
            assert refused_hello(gateway, ISSUER.token(1, "rsa"))[1] == 4501
        assert site.asked == before + 1


def test_an_outage_keeps_the_keys_and_says_so(site: IssuerSite, data: Path) -> None:
    options = {"auth.keys": site.url, "auth.keys_refresh_s_min": 1, "auth.keys_refresh_s_max": 1}
    with running(data, **options) as gateway:
        site.status = 503
        until(lambda: gateway.metric("gonets_token_key_reload_failures_total") >= 2)
        device = Device(gateway.url)
        device.hello(ISSUER.token(3, "ed"))
        assert refused_hello(gateway, ISSUER.token(4, "ec"))[1] == 4006
        site.status, site.body = 200, key_set("ec")
        until(lambda: gateway.metric("gonets_token_keys_age_seconds") < 1)
        Device(gateway.url).hello(ISSUER.token(4, "ec"))
        assert "Traceback" not in gateway.log()


# ---- revocations -----------------------------------------------------------------------------------------------------


def revoke(path: Path, **lists: object) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(lists))
    aside.replace(path)


def test_what_a_list_may_say() -> None:
    document = b'{"tokens": ["a"], "users": {"7": 100}, "devices": {"8/2": 50}}'
    found, digest = parse_revoked(document), hashlib.sha256(document).hexdigest()
    assert found == Revoked(frozenset({"a"}), {7: 100}, {(8, 2): 50}, digest) and found.entries == 3
    identity = auth.Identity(7, 0, None, 99, "x")
    assert found.covers(identity, 1) and not found.covers(identity._replace(issued_s=100), 1)
    assert found.covers(auth.Identity(1, 0, None, 5, "a"), 1) and not found.covers(auth.Identity(1, 0, None, 5, ""), 1)
    assert found.covers(auth.Identity(8, 0, None), 2) and not found.covers(auth.Identity(8, 0, None), 3)
    assert mark_of("") == 0 != mark_of("a") != mark_of("b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"token": ["a"]}',
        '{"tokens": [1]}',
        '{"tokens": [""]}',
        '{"users": {"x": 1}}',
        '{"users": {"07": 1}}',
        '{"users": {"7": -1}}',
        '{"users": {"7": "now"}}',
        '{"devices": {"7": 1}}',
        '{"tokens": ["' + "x" * (4 << 20) + '"]}',
        "[" * 100_000,
    ],
)
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RevokedError):
        parse_revoked(text.encode())


def test_revocation_ends_the_sessions_concerned_within_two_seconds(data: Path, tmp_path: Path) -> None:
    path, keys = tmp_path / "revoked.json", ISSUER.write(tmp_path / "keys.json")
    revoke(path)
    now = int(time.time())
    with running(data, **{"auth.keys": keys, "auth.revoked": path}) as gateway:

        def device(user: int, number: int, **claims: Any) -> Device:
            made = Device(gateway.url)
            made.hello(ISSUER.token(user, **claims), number)
            return made

        by_id, by_user = device(1, 1, jti="lost phone"), device(2, 1, iat=now - 50)
        undated, by_device = device(2, 2, iat=None), device(3, 1, iat=now - 50)
        kept = [device(1, 2, jti="other"), device(2, 3, iat=now), device(3, 2, iat=now - 50), device(4, 1)]
        by_id.send("refresh", token=ISSUER.token(1, jti="fresh"))
        by_id.expect("refreshed")
        revoke(path, tokens=["fresh"], users={"2": now}, devices={"3/1": now})
        began = time.monotonic()
        for ended in (by_id, by_user, undated, by_device):
            assert ended.closed() == (4506, "token_revoked")
        assert time.monotonic() - began < 6  # 2 s on an idle machine
        for one in kept:
            assert not [push for push in one.settled() if push["op"] == "error"]
        error, code = refused_hello(gateway, ISSUER.token(1, jti="fresh"))
        assert (error["code"], code) == ("token_revoked", 4506)
        kept[3].send("refresh", token=ISSUER.token(4, jti="fresh"))
        assert kept[3].closed()[0] == 4506
        path.write_text("{broken")
        until(lambda: gateway.metric("gonets_revoked_reload_failures_total") == 1)
        assert gateway.metric("gonets_revoked_entries") == 3 and gateway.metric("gonets_revoked_sessions_total") == 4
        assert refused_hello(gateway, ISSUER.token(2, iat=now - 1))[1] == 4506
        assert "lost phone" not in gateway.log() and "Traceback" not in gateway.log()


def test_revocations_by_url(site: IssuerSite, data: Path, tmp_path: Path) -> None:
    site.body = json.dumps({"tokens": ["x"]})
    site.headers = {"ETag": '"1"'}
    options = {"auth.keys": ISSUER.write(tmp_path / "k.json"), "auth.revoked": site.url, "auth.revoked_refresh_s": 1}
    with running(data, **options) as gateway:
        assert refused_hello(gateway, ISSUER.token(1, jti="x"))[1] == 4506
        device = Device(gateway.url)
        device.hello(ISSUER.token(1, jti="y"))
        site.body, site.headers = json.dumps({"tokens": ["x", "y"]}), {"ETag": '"2"'}
        assert device.closed()[0] == 4506
