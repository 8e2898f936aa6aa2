"""Numbers for people: each with its unit, and with as many digits as it is worth.

Used by summary.py, findings.py and pages/. A report keeps what was measured; only here is anything rounded. Units are
those that names in a report end in (`_ms`, `_bytes`, `_per_s`, `_cores`, `_share`), so that a figure that a command
adds is written rightly without anybody knowing its name.
"""

from __future__ import annotations

import math
from typing import Final

SIGNIFICANT: Final = 3  # digits of a figure that isn't counted
SECOND_MS: Final = 1_000.0
MINUTE_S, HOUR_S = 60, 3_600

SIZES: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
ENDINGS: Final = {  # of a name → unit
    "_bytes_per_s": "bytes/s",
    "_per_hour": "/h",
    "_per_s": "/s",
    "_bytes": "bytes",
    "_cores": "cores",
    "_share": "share",
    "_gib": "GiB",
    "_ms": "ms",
    "_us": "µs",
    "_ns": "ns",
    "_s": "s",
}


def number(value: float, significant: int = SIGNIFICANT) -> str:
    """With thousands set apart; whole from 1,000 on, three digits below."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = significant - 1 - math.floor(math.log10(abs(value)))
    if digits <= 0:
        return f"{round(value, min(digits + 1, 0)):,.0f}"
    text = f"{value:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if float(value).is_integer() else text


def count(value: float) -> str:
    """A whole number, all of its digits."""
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """So many a second."""
    return f"{number(value)}/s"


def ms(value: float) -> str:
    """A latency, in seconds from one second on."""
    return f"{number(value)} ms" if abs(value) < SECOND_MS else f"{number(value / SECOND_MS)} s"


def size(value: float) -> str:
    """Bytes, in the largest binary unit that leaves a number above 1."""
    step = 0
    while abs(value) >= 1_024 and step < len(SIZES) - 1:
        value /= 1_024
        step += 1
    return f"{number(value)} {SIZES[step]}"


def duration(seconds: float) -> str:
    """As people say it: 32 s, 5 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 1:
        return f"{number(seconds)} s"
    if whole < 2 * MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S:02} s"
    return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S:02} min"


def cores(value: float) -> str:
    """CPU: 1 core is one core busy all the time."""
    return f"{value:.2f} cores"


def share(value: float) -> str:
    """A part of 1, in percent."""
    return f"{number(value * 100)} %"


def unit_of(name: str) -> str:
    """The unit that the name of a value ends in; empty: it counts something."""
    return next((unit for ending, unit in ENDINGS.items() if name.endswith(ending)), "")


def title_of(name: str) -> str:
    """The name of a value in words, without its unit."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending).replace("_", " ")


def quantity(value: float, unit: str) -> str:
    """A value in its unit."""
    match unit:
        case "ms":
            return ms(value)
        case "bytes":
            return size(value)
        case "bytes/s" | "bytes_per_s":
            return f"{size(value)}/s"
        case "cores":
            return cores(value)
        case "share":
            return share(value)
        case "/s" | "1/s" | "per_s":
            return rate(value)
        case "":
            return number(value)
    return f"{number(value)}{'' if unit.startswith('/') else ' '}{unit}"


def between(low: float, high: float, unit: str) -> str:
    """A spread, in one unit."""
    return f"{quantity(low, unit)} to {quantity(high, unit)}"
