"""The section [admission]: who gets in, from where, how many at once, and when publishes are refused for the load.

Part of engine/options.py, which puts the sections together; how an option describes itself is here too, because both
need it. What the limits are about natively: ext/doorway.pyx; the load: gateway/load.py.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

PROXY_NETWORKS_MAX = 64


def option(meaning: str, unit: str = "", *, reloadable: bool = False, **limits: Any) -> Meta:
    """The description of one field; `limits` are msgspec's own (ge, le, pattern…)."""
    return Meta(description=meaning, extra={"unit": unit, "reloadable": reloadable}, **limits)


class Admission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is let in, and what is refused under load."""

    unknown_sessions_max: Annotated[
        int,
        option(
            "connections that have not said hello; beyond it the one that has waited longest without a word is put out",
            "sessions",
            ge=16,
            le=4_000_000,
        ),
    ] = 20_000
    address_unknown_max: Annotated[
        int,
        option(
            "the same for one address (IPv4, or /64 of IPv6): its own oldest is put out. Sessions after hello don't"
            " count: thousands may live behind one carrier's address, but a handshake takes a second at most",
            "sessions",
            ge=1,
            le=4_000_000,
        ),
    ] = 2_000
    address_connects_per_s_max: Annotated[
        int,
        option(
            "connects a second of one address for long; more are answered 503, but only while the process is short of"
            " time (gonets_load_level > 0)",
            "1/s",
            ge=1,
            le=1_000_000,
        ),
    ] = 500
    address_burst_connects: Annotated[
        int,
        option(
            "connects of one address at once: all phones behind a carrier's address, when they come back together",
            "connects",
            ge=1,
            le=1_000_000,
        ),
    ] = 4_000
    failed_hello_connects: Annotated[
        int, option("connects that a hello with a bad token counts as, for its address", "connects", ge=0, le=10_000)
    ] = 20
    proxy_protocol: Annotated[
        Literal["off", "required"],
        option(
            "whether load balancers in front say whom they bring (PROXY protocol, versions 1 and 2); required:"
            " connections from elsewhere than proxy_from, or without it, are closed"
        ),
    ] = "off"
    proxy_from: Annotated[
        str,
        option(
            "addresses and networks of those load balancers, such as 10.0.0.0/8, 2001:db8::/48; needed where required",
            "networks",
        ),
    ] = ""
    members_per_s_max: Annotated[
        int,
        option(
            "members of new groups of more than 64, of all sessions together; more groups are answered `overloaded`."
            " One costs some 5 us of every thread that folds the log; a session pays one command of its rate for 50",
            "members",
            reloadable=True,
            ge=1_000,
            le=1_000_000,
        ),
    ] = 20_000
    publish_wait_ms_max: Annotated[
        int,
        option(
            "what a publish may wait to be read and, beyond two commits, with the writer; from 0.4 of it on only as"
            " many are taken as keep to it, others are refused at once (`overloaded`); too small refuses in short"
            " bursts",
            "ms",
            reloadable=True,
            ge=5,
            le=10_000,
        ),
    ] = 60


def wrong_proxies(admission: Admission) -> str:
    """What is wrong with `proxy_from`; "" if nothing is."""
    try:
        found = networks(admission.proxy_from)
    except ValueError as error:
        return str(error)
    if len(found) > PROXY_NETWORKS_MAX:
        return f"at most {PROXY_NETWORKS_MAX} networks can be named, these are {len(found)}"
    if admission.proxy_protocol == "required" and not found:
        return 'must name the proxies where admission.proxy_protocol = "required"'
    return ""


def networks(text: str) -> list[tuple[bytes, int]]:
    """(16 bytes, prefix length) of each network in a list; IPv4 as ::ffff:0:0/96. ValueError names what is none."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        network = ipaddress.ip_network(part)
        if network.version == 4:
            found.append((bytes(10) + b"\xff\xff" + network.network_address.packed, 96 + network.prefixlen))
        else:
            found.append((network.network_address.packed, network.prefixlen))
    return found
