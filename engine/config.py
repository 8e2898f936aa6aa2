"""The one configuration: frozen structs, read from defaults, a TOML file, the environment and flags, in that order.

Read by gonets.py alone, which hands plain numbers on: hot code never sees this object, and nothing else reads the
environment (`GONETS_SECTION_FIELD`; a variable with that prefix that names nothing is an error, except those in
OTHER_VARIABLES and those of Kubernetes). A field carries its own meaning, unit, limits and whether a reload (SIGHUP)
takes it; `describe()` prints exactly that, so that the page for SREs can't fall behind the code.

Invariants: every value that leaves `load()` is inside its limits and agrees with the others; an error names the
dotted option, the value, the limit and what to change; unknown options are errors, not silence.
Cost: once at start and once a reload.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Meta, Struct

from engine.options import ADDRESS_OR_NONE, Config
from engine.options_admission import wrong_proxies

ENVIRONMENT_PREFIX = "GONETS_"
# Of the command line (address, token) and of the build (setup.py): no options of the server.
OTHER_VARIABLES = frozenset(
    {"GONETS_URL", "GONETS_TOKEN", "GONETS_API_URL", "GONETS_SERVICE_TOKEN", "GONETS_DEBUG", "GONETS_SANITIZE"}
)
# What other programs call it → the last word of an option.
OTHER_WORDS = {
    **dict.fromkeys(("port", "host", "bind", "addr", "address"), "listen"),
    **dict.fromkeys(("dir", "directory", "folder"), "data"),
}
# What Kubernetes puts into every container beside a service called gonets or gonets-…, name=value.
KUBERNETES = re.compile(
    r"GONETS_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?=.*|PORT=\w+://.*|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*)"
)


class ConfigError(Exception):
    """An option that can't be used: says which, what it is, what it may be, and where it came from."""

    def __init__(self, option: str, value: object, limit: str, source: str = "") -> None:
        self.option, self.value, self.limit, self.source = option, value, limit, source
        origin = f" (from {source})" if source else ""
        super().__init__(f"{option} = {value!r}{origin}: {limit}")


class Loaded(Struct, frozen=True):
    """A configuration with, per dotted option that is not the default, where it came from."""

    config: Config
    sources: dict[str, str]


class Row(Struct, frozen=True):
    """One line of `gonets config check`."""

    option: str
    value: str | int | float
    default: str | int | float
    unit: str
    limits: str
    reloadable: bool
    source: str
    environment: str
    meaning: str


SECTIONS: dict[str, type[Struct]] = {field.name: field.type for field in msgspec.structs.fields(Config)}


def _fields() -> Iterator[tuple[str, str, Any, Meta, Any]]:
    """(section, field, annotated type, its Meta, default) of every option."""
    for section, struct in SECTIONS.items():
        hints = get_type_hints(struct, include_extras=True)
        for field in msgspec.structs.fields(struct):
            annotated = hints[field.name]
            yield section, field.name, annotated, annotated.__metadata__[0], field.default


def limits_text(annotated: Any) -> str:
    """What a value may be, in words, from the same Meta that judges it."""
    meta: Meta = annotated.__metadata__[0]
    base = annotated.__origin__
    parts = []
    if meta.ge is not None or meta.le is not None:
        parts.append(f"{meta.ge} to {meta.le}" if meta.ge is not None and meta.le is not None else f"≥ {meta.ge}")
    if meta.pattern is not None:
        parts.append("host:port" + (" or empty" if meta.pattern == ADDRESS_OR_NONE else ""))
    if meta.min_length:
        parts.append("not empty")
    choices = getattr(base, "__args__", None)
    if choices:
        parts.append("one of " + ", ".join(map(str, choices)))
    unit = (meta.extra or {}).get("unit", "")
    text = ", ".join(parts) or {str: "text", int: "an integer", float: "a number"}.get(base, str(base))
    return f"{text} {unit}".strip() if unit not in ("", "host:port", "path", "text") else text


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Loaded:
    """Defaults, then the file, then the environment, then flags (dotted names; None = not given)."""
    values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    known = {f"{section}.{name}": annotated for section, name, annotated, _, _ in _fields()}
    names = {_environment_name(dotted): dotted for dotted in known}

    def take(dotted: str, value: object, source: str, strict: bool) -> None:
        if dotted not in known:
            close = _nearest(dotted, known)
            raise ConfigError(dotted, value, f"no such option{close}; `gonets config check` lists all", source)
        try:
            checked = msgspec.convert(value, known[dotted], strict=strict)
        except msgspec.ValidationError:
            raise ConfigError(dotted, value, f"must be {limits_text(known[dotted])}", source) from None
        section, name = dotted.split(".")
        values[section][name] = checked
        sources[dotted] = source

    if path is not None:
        for dotted, value in _read_toml(path):
            take(dotted, value, str(path), strict=True)
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and not _is_no_option(name, text):
            if name not in names:  # its value stays unsaid: a token may hide behind a name with a typing error
                raise ConfigError(name, "…", _not_an_option(name, names), "environment")
            take(names[name], text, name, strict=False)
    for dotted, flag in (flags or {}).items():
        if flag is not None:
            take(dotted, flag, "command line", strict=False)
    config = Config(**{section: SECTIONS[section](**values[section]) for section in SECTIONS})  # type: ignore[arg-type]
    _check_relations(config)
    return Loaded(config, sources)


def _environment_name(dotted: str) -> str:
    return ENVIRONMENT_PREFIX + dotted.replace(".", "_", 1).upper()


def _not_an_option(name: str, names: Mapping[str, str]) -> str:
    said = "no such option" + _nearest(name, names)
    if name.removeprefix(ENVIRONMENT_PREFIX).lower() in SECTIONS:
        inside = next(known for known in names if known.startswith(name + "_"))
        said = f"it is a section; name one of its options, such as {inside}"
    return said + "; `gonets config check` lists all"


def _is_no_option(name: str, text: str) -> bool:
    """Whether a variable with our prefix means something else, and is no mistake."""
    return name in OTHER_VARIABLES or KUBERNETES.fullmatch(f"{name}={text}") is not None


def _read_toml(path: Path) -> Iterator[tuple[str, object]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("--config", str(path), f"can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("--config", str(path), f"is not TOML: {error}") from None
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise ConfigError(section, "…", f"no such section; sections are {', '.join(SECTIONS)}", str(path))
        for name, value in table.items():
            yield f"{section}.{name}", value


def _nearest(dotted: str, known: Mapping[str, object]) -> str:
    """The option that was meant, perhaps: by its letters, or by a word that others use for it."""
    from difflib import get_close_matches

    words = re.split(r"[._]", dotted.lower())
    meant = {OTHER_WORDS[word] for word in words if word in OTHER_WORDS}
    options = {option.lower(): option for option in known}
    found = get_close_matches(dotted.lower(), options, n=1, cutoff=0.9 if meant else 0.6)
    if meant and not found:
        ends = {option: re.split(r"[._]", option)[-1] for option in options}
        kept = [word for word in words if word not in OTHER_WORDS]
        if not set(kept) & set(ends.values()):  # GONETS_SERVER_PORT; GONETS_ADMIN_PORT says it already
            kept += sorted(meant)
        fitting = [option for option, end in ends.items() if end in kept]
        found = get_close_matches("_".join(kept), fitting, n=1) or get_close_matches(dotted.lower(), options, n=1)
    return f", did you mean {options[found[0]]}" if found else ""


def _check_relations(config: Config) -> None:
    """What no single field can say; one relation a line, in words that name both options."""
    gateway, server = config.gateway, config.server
    if gateway.idle_timeout_s <= gateway.ping_interval_s:
        raise ConfigError(
            "gateway.idle_timeout_s",
            gateway.idle_timeout_s,
            f"must be more than gateway.ping_interval_s = {gateway.ping_interval_s}",
        )
    if gateway.rate_burst < gateway.rate_per_s // 10:
        raise ConfigError(
            "gateway.rate_burst",
            gateway.rate_burst,
            f"must be at least a tenth of gateway.rate_per_s = {gateway.rate_per_s}",
        )
    if wrong := wrong_proxies(config.admission):
        raise ConfigError("admission.proxy_from", config.admission.proxy_from, wrong)
    if server.admin and server.admin == server.listen and not server.listen.endswith(":0"):
        raise ConfigError(
            "server.admin", server.admin, "must differ from server.listen: it shows what clients may not see"
        )
    for name, address in (("server.listen", server.listen), ("server.admin", server.admin)):
        if server.api and server.api == address and not address.endswith(":0"):
            raise ConfigError("server.api", server.api, f"must differ from {name}: each door has a port of its own")
    for name, other in (("certificate", "key"), ("key", "certificate")):
        if getattr(config.tls, name) and not getattr(config.tls, other):
            raise ConfigError(f"tls.{name}", getattr(config.tls, name), f"needs tls.{other} as well")
    auth = config.auth
    if auth.keys_refresh_s_min > auth.keys_refresh_s_max:
        raise ConfigError(
            "auth.keys_refresh_s_min",
            auth.keys_refresh_s_min,
            f"must be at most auth.keys_refresh_s_max = {auth.keys_refresh_s_max}",
        )
    for name, address in (("server.listen", server.listen), ("server.admin", server.admin), ("server.api", server.api)):
        if address and int(address.rpartition(":")[2]) > 65_535:
            raise ConfigError(name, address, "the port must be 0 to 65535")


def describe(loaded: Loaded) -> list[Row]:
    """Every option as one row: what `gonets config check` shows."""
    rows = []
    for section, name, annotated, meta, default in _fields():
        dotted = f"{section}.{name}"
        extra = meta.extra or {}
        rows.append(
            Row(
                option=dotted,
                value=getattr(getattr(loaded.config, section), name),
                default=default,
                unit=extra["unit"],
                limits=limits_text(annotated),
                reloadable=extra["reloadable"],
                source=loaded.sources.get(dotted, "default"),
                environment=_environment_name(dotted),
                meaning=re.sub(r"\s+", " ", meta.description or ""),
            )
        )
    return rows


def config_changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """(options that a reload takes, options that need a restart) among those that differ."""
    taken: list[str] = []
    restart: list[str] = []
    for section, name, _, meta, _ in _fields():
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name):
            (taken if (meta.extra or {})["reloadable"] else restart).append(f"{section}.{name}")
    return taken, restart


def not_default(config: Config) -> dict[str, Any]:
    """The options that are not at their default, by their dotted names."""
    values = {
        f"{section}.{name}": (getattr(getattr(config, section), name), default)
        for section, name, _, _, default in _fields()
    }
    return {option: value for option, (value, default) in values.items() if value != default}


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of a checked address; brackets of IPv6 removed."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
