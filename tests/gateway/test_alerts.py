"""Each alert fires over series that call for it, and doesn't over ones that nearly do; promtool is the judge."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from engine import Config
from gateway.operating.alerts import ALERTS
from gateway.operating.figures import JOB, figures_of
from tests.support.gateway import GatewayProcess
from tests.support.promtool import Case, check_cases

RULES = Path(__file__).resolve().parents[2] / "gateway" / "operating" / "gonets.rules.yml"
MEMORY_BYTES = figures_of(Config()).memory_bytes_max

Series = dict[str, str]  # metric, without gonets_, → values, one each 30 s
# Of another subscription of the same node, which is well.
WELL_AGE = {'subscription_oldest_unacked_seconds{subscription="push"}': "1x400"}
WELL_LAG = {'subscription_lag_events{subscription="push"}': "5x400"}
NONE_PARKED = {'subscription_parked_events{subscription="push"}': "0x400"}
# alert → when; series over which it fires; over which it does not
CASES: dict[str, tuple[str, Series, Series]] = {
    "GonetsDown": ("3m", {"up": "0x10"}, {"up": "0x2 1x10"}),
    "GonetsUnknown": ("7m", {}, {"up": "0x20"}),
    "GonetsNotReady": ("4m", {"ready": "0x20"}, {"ready": "0x3 1x20"}),
    "GonetsWriterFenced": ("2m", {"writer_fenced": "1x10"}, {"writer_fenced": "0x10"}),
    "GonetsSequencerAway": ("3m", {"ready": "0x10"}, {"ready": "0x10", "log_sequence": "5x10"}),
    "GonetsNoAnswers": (
        "8m",
        {"unanswered_publishes": "9x20", "answers_total": "7x20"},
        {"unanswered_publishes": "9x3 0 9x20", "answers_total": "7x3 8x3 9x3 10x3 11x10"},
    ),
    "GonetsProcessesDie": (
        "6m",
        {"restarted_processes_total": "0x4 1 2 3 3x20"},
        {"restarted_processes_total": "0x4 1 2 2x20"},
    ),
    "GonetsRestarts": (
        "8m",
        {"start_time_seconds": "100x3 200x3 300x3 400x20"},
        {"start_time_seconds": "100x3 200x3 300x20"},
    ),
    "GonetsDiskShort": ("2m", {"disk_short": "1x10"}, {"disk_short": "0x10"}),
    "GonetsDiskNearLimit": ("7m", {"data_free_bytes": "2281701375x20"}, {"data_free_bytes": "2281701376x20"}),
    "GonetsDiskFillsSoon": (
        "390m",
        {"data_free_bytes": "100000000000-12000000x800"},
        {"data_free_bytes": "100000000000-5000000x800"},
    ),
    "GonetsSyncSlow": (
        "25m",
        {"log_commits_total": "0+100x60", "log_slow_commits_total": "0+2x60"},
        {"log_commits_total": "0+300x60", "log_slow_commits_total": "0+2x60"},
    ),
    "GonetsSaverFailed": ("3m", {"saver_failed": "1x10"}, {"saver_failed": "0x10"}),
    "GonetsStateBehind": (
        "30m",
        {"log_sequence": "0+10x80", "state_saved_sequence": "100x80"},
        {"log_sequence": "300+10x80", "state_saved_sequence": "10+10x80"},
    ),
    "GonetsDamage": ("2m", {"damage_places": "1x10"}, {"damage_places": "0x10"}),
    "GonetsRetentionFails": (
        "10m",
        {"retention_failures_total": "0x4 1 2 3 3x20"},
        {"retention_failures_total": "0x4 1 2 2x20"},
    ),
    "GonetsRetentionHeld": (
        "390m",
        {"retention_held_segments": "2x800"},
        {"retention_held_segments": "2x600 0x20 2x200"},
    ),
    "GonetsBackupOld": ("2m", {"backup_age_seconds": "93601x10"}, {"backup_age_seconds": "93600x10"}),
    "GonetsTailBehind": (
        "10m",
        {"log_sequence": "0+100x30", "delivered_sequence": "100x30"},
        {"log_sequence": "100+100x30", "delivered_sequence": "0+100x30"},
    ),
    "GonetsShedding": ("15m", {"load_level": "2x40"}, {"load_level": "0x6 3 4 0x40"}),
    "GonetsOverloaded": ("6m", {"load_level": "4x20"}, {"load_level": "3x8 5 3x20"}),
    "GonetsPublishesRefused": (
        "15m",
        {"publishes_total": "0+90x40", "shed_publishes_total": "0+4x40", "overloaded_publishes_total": "0+6x40"},
        {"publishes_total": "0+96x40", "shed_publishes_total": "0+2x40", "overloaded_publishes_total": "0+2x40"},
    ),
    "GonetsNearCapacity": ("80m", {"load_pressure_ratio": "0.12x200"}, {"load_pressure_ratio": "0.08x200"}),
    "GonetsSessionsNearLimit": (
        "8m",
        {"sessions": "90x20", "room_sessions": "100x20"},
        {"sessions": "80x20", "room_sessions": "100x20"},
    ),
    "GonetsDoorwayFull": ("8m", {"doorway_connections": "16001x20"}, {"doorway_connections": "16000x20"}),
    "GonetsBuffersNearLimit": (
        "8m",
        {"session_buffers_bytes": "230000000x20"},
        {"session_buffers_bytes": "210000000x20"},
    ),
    "GonetsInterestNearLimit": ("8m", {"interest_entries": "8500001x20"}, {"interest_entries": "8500000x20"}),
    "GonetsMemoryNearSum": (
        "13m",
        {"anonymous_memory_bytes": f"{MEMORY_BYTES * 9 // 10}x40"},
        {"anonymous_memory_bytes": f"{MEMORY_BYTES * 7 // 10}x40"},
    ),
    "GonetsSlowReaders": (
        "13m",
        {"reader_sessions": "200x40", "live_sessions": "800x40"},
        {"reader_sessions": "90x40", "live_sessions": "100x40"},
    ),
    "GonetsGaps": (
        "35m",
        {"gaps_total": "0+6x80", "resumes_total": "0+10x80"},
        {"gaps_total": "0+4x80", "resumes_total": "0+10x80"},
    ),
    "GonetsHellosRefused": (
        "20m",
        {"hellos_total": "0+10x60", "refused_hellos_total": "0+6x60"},
        {"hellos_total": "0+1x60", "refused_hellos_total": "0+4x60"},
    ),
    "GonetsTokenKeysFail": (
        "10m",
        {"token_key_reload_failures_total": "0x4 1 2 3 3x20"},
        {"token_key_reload_failures_total": "0x4 1 2 2x20"},
    ),
    "GonetsTokenKeysOld": ("8m", {"token_keys_age_seconds": "43201x20"}, {"token_keys_age_seconds": "43200x20"}),
    "GonetsRevocationsFail": (
        "10m",
        {"revoked_reload_failures_total": "0x4 1 2 3 3x20"},
        {"revoked_reload_failures_total": "0x4 1 2 2x20"},
    ),
    "GonetsRevocationsOld": ("8m", {"revoked_age_seconds": "61x20"}, {"revoked_age_seconds": "60x20"}),
    "GonetsCertificateExpires": (
        "70m",
        {"tls_certificate_left_seconds": "1209599x200"},
        {"tls_certificate_left_seconds": "1209600x200"},
    ),
    "GonetsCertificateExpiresNow": (
        "2m",
        {"tls_certificate_left_seconds": "172799x10"},
        {"tls_certificate_left_seconds": "172800x10"},
    ),
    "GonetsCertificateNotTaken": (
        "10m",
        {"tls_certificate_reload_failures_total": "0x4 1x20"},
        {"tls_certificate_reload_failures_total": "1x20"},
    ),
    "GonetsBesideTheProxy": (
        "20m",
        {"untrusted_connections_total": "0+20x60", "bad_proxy_headers_total": "0+20x60"},
        {"untrusted_connections_total": "0+14x60", "bad_proxy_headers_total": "0+14x60"},
    ),
    "GonetsSubscriptionStuck": (
        "14m",
        {'subscription_oldest_unacked_seconds{subscription="mail"}': "901x40", **WELL_AGE},
        {'subscription_oldest_unacked_seconds{subscription="mail"}': "900x40", **WELL_AGE},
    ),
    "GonetsSubscriptionBehind": (
        "130m",
        {'subscription_lag_events{subscription="mail"}': "1000000+10x300", **WELL_LAG},
        {'subscription_lag_events{subscription="mail"}': "2000000-10x300", **WELL_LAG},
    ),
    "GonetsEventsParked": (
        "34m",
        {'subscription_parked_events{subscription="mail"}': "1x80", **NONE_PARKED},
        {'subscription_parked_events{subscription="mail"}': "1x20 0x60", **NONE_PARKED},
    ),
    "GonetsActsUntold": ("12m", {"untold_acts": "2x40"}, {"untold_acts": "2x9 0x31"}),
}


def _case(alert: str, fires: bool, at: str, series: Series) -> Case:
    return Case(alert, fires, at, {name if name == "up" else f"gonets_{name}": text for name, text in series.items()})


def test_each_alert_fires_and_does_not(tmp_path: Path) -> None:
    assert list(CASES) == [alert.name for alert in ALERTS]
    cases = []
    for alert, (at, called_for, not_quite) in CASES.items():
        cases += [_case(alert, True, at, called_for), _case(alert, False, at, not_quite)]
    check_cases(RULES, cases, tmp_path, JOB)


def test_a_case_that_comes_out_otherwise_is_seen(tmp_path: Path) -> None:
    """The judge bites."""
    at, called_for, _ = CASES["GonetsDiskShort"]
    with pytest.raises(AssertionError, match="GonetsDiskShort"):
        check_cases(RULES, [_case("GonetsDiskShort", False, at, called_for)], tmp_path, JOB)


def printed_when_saved(gateway: GatewayProcess) -> dict[str, str]:
    """All of /metrics, once the state has been saved up to the log's end."""
    until_s = time.monotonic() + 20
    while True:
        found = dict(re.findall(r"^(gonets_\w+) (\S+)$", gateway.http("/metrics", admin=True)[1], re.M))
        if found["gonets_state_saved_sequence"] == found["gonets_log_sequence"]:
            return found
        assert time.monotonic() < until_s, found
        time.sleep(0.1)


def test_no_alert_fires_over_a_node_that_is_well(data: Path, tmp_path: Path) -> None:
    """What a server that has just begun and done a little really prints, for seven hours."""
    with GatewayProcess(data, **{"log.save_interval_s": 1}) as gateway:
        device = gateway.device(1)
        device.write("publish", user=2, text="all is well")
        printed = printed_when_saved(gateway)
    assert printed["gonets_ready"] == "1.0" and float(printed["gonets_room_sessions"]) >= 1
    printed["gonets_data_free_bytes"] = "1000000000000"  # of a disk that isn't this machine's
    steady = {name: f"{float(value):f}x850" for name, value in {"up": "1", **printed}.items()}
    check_cases(RULES, [Case("", False, "420m", steady)], tmp_path, JOB)
