"""The configuration: sources in order, errors that name option, value and limit, a row for every field."""

import re
from pathlib import Path

import pytest

from engine import config

UNITS = (
    "s",
    "days",
    "us",
    "ms",
    "bytes",
    "events",
    "sessions",
    "1/s",
    "commands",
    "publishes",
    "entries",
    "jobs",
    "records",
    "threads",
    "workers",
    "members",
    "connects",
    "connections",
    "consumers",
    "streams",
    "subscriptions",
    "bytes/s",
    "networks",
    "path",
    "text",
    "host:port",
    "",
)


def test_sources_override_each_other_in_order(tmp_path: Path) -> None:
    file = tmp_path / "gonets.toml"
    file.write_text("[gateway]\nrate_per_s = 5\nping_interval_s = 7\n[server]\ndata = 'a'\n")
    loaded = config.load(
        file,
        {"GONETS_GATEWAY_PING_INTERVAL_S": "8", "GONETS_SERVER_DATA": "b", "GONETS_TOKEN": "no option"},
        {"server.data": "c", "server.listen": None},
    )
    gateway = loaded.config.gateway
    assert (gateway.rate_per_s, gateway.ping_interval_s, loaded.config.server.data) == (5, 8, "c")
    assert loaded.sources == {
        "gateway.rate_per_s": str(file),
        "gateway.ping_interval_s": "GONETS_GATEWAY_PING_INTERVAL_S",
        "server.data": "command line",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\nrate_per_s = 0\n", ["gateway.rate_per_s", "0", "1 to 1000000"]),
        ("[gateway]\nrate_per_s = '9'\n", ["gateway.rate_per_s", "'9'", "1 to 1000000"]),
        ("[gateway]\nrate_pers = 9\n", ["gateway.rate_pers", "did you mean gateway.rate_per_s"]),
        ("[server]\nport = 8800\n", ["server.port", "did you mean server.listen"]),
        ("[gate]\nx = 1\n", ["gate", "no such section", "gateway"]),
        ("server = 4\n", ["server", "no such section"]),
        ("[server]\nlisten = 'nowhere'\n", ["server.listen", "'nowhere'", "host:port"]),
        ("[server]\nlisten = '127.0.0.1:99999'\n", ["server.listen", "0 to 65535"]),
        ("[server]\nadmin = '127.0.0.1:8800'\n", ["server.admin", "must differ from server.listen"]),
        ("[logging]\nlevel = 'loud'\n", ["logging.level", "'loud'", "debug, info, warning, error"]),
        ("[gateway]\nidle_timeout_s = 30\n", ["gateway.idle_timeout_s", "30", "gateway.ping_interval_s"]),
        ("[gateway]\nrate_per_s = 90000\n", ["gateway.rate_burst", "gateway.rate_per_s = 90000"]),
        ("[gateway\n", ["--config", "is not TOML"]),
    ],
)
def test_an_error_names_option_value_and_limit(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "gonets.toml"
    file.write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        config.load(file, {})
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_an_error_not_the_defaults(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="can't be read"):
        config.load(tmp_path / "none.toml", {})


def test_every_field_explains_itself() -> None:
    rows = config.describe(config.load(None, {}))
    assert len({row.option for row in rows}) == len(rows) > 30
    for row in rows:
        assert len(row.meaning) > 10 and row.unit in UNITS, row
        assert row.value == row.default and row.source == "default"
        assert row.environment == "GONETS_" + row.option.replace(".", "_", 1).upper()
        if isinstance(row.value, int) and row.unit in ("s", "us", "ms", "bytes"):
            assert re.search(r"_(s|us|ms|bytes)(_max|_min)?$", row.option), f"{row.option}: unit last in the name"


def test_the_defaults_agree_with_each_other_and_what_changes_is_told_apart() -> None:
    old = config.load(None, {}).config
    new = config.load(None, {"GONETS_SERVER_DRAIN_S": "3", "GONETS_SERVER_DATA": "x"}).config
    assert config.config_changes(old, new) == (["server.drain_s"], ["server.data"])
    assert config.split_address("[::1]:80") == ("::1", 80)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GONETS_GATEWAY", ["it is a section", "GONETS_GATEWAY_SESSIONS_MAX"]),
        ("GONETS_GATEWY_RATE_PER_S", ["did you mean GONETS_GATEWAY_RATE_PER_S"]),
        ("GONETS_GATEWAY_RATE_PER", ["did you mean GONETS_GATEWAY_RATE_PER_S"]),
        ("GONETS_TOKNE", ["no such option"]),
        ("GONETS_SERVER_PORT", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_SERVER_HOST", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_PORT", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_GATEWAY_PORT", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_BIND_ADDRESS", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_LISTEN_PORT", ["did you mean GONETS_SERVER_LISTEN"]),
        ("GONETS_SERVER_ADMIN_PORT", ["did you mean GONETS_SERVER_ADMIN"]),
        ("GONETS_DATA_DIR", ["did you mean GONETS_SERVER_DATA"]),
        ("GONETS_ADMISSION_ADDRESS_CONECTS_PER_S_MAX", ["did you mean GONETS_ADMISSION_ADDRESS_CONNECTS_PER_S_MAX"]),
        ("GONETS_", ["no such option"]),
        ("GONETS_SERVER_DATA_", ["did you mean GONETS_SERVER_DATA"]),
    ],
)
def test_an_unknown_variable_is_an_error_that_keeps_its_value_to_itself(name: str, words: list[str]) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(None, {name: "eyJ5"})
    assert name in str(caught.value) and "eyJ5" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_variables_that_are_no_options_are_left_alone() -> None:
    others = dict.fromkeys(config.OTHER_VARIABLES, "5")
    kubernetes = {
        "GONETS_SERVICE_HOST": "10.0.0.1",
        "GONETS_SERVICE_PORT": "8800",
        "GONETS_SERVICE_PORT_WS": "8800",
        "GONETS_PORT": "tcp://10.0.0.1:8800",
        "GONETS_PORT_8800_TCP": "tcp://10.0.0.1:8800",
        "GONETS_PORT_8800_TCP_PROTO": "tcp",
        "GONETS_GATEWAY_PORT_8800_TCP_ADDR": "10.0.0.1",
    }
    assert config.load(None, {**others, **kubernetes, "PATH": "/bin"}) == config.load(None, {})
