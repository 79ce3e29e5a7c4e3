"""Numbers as a person reads them, in Grafana's units."""

import math

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
TIMES = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
SUFFIXES = {"ops": "/s", "reqps": "/s", "celsius": " °C", "percent": " %", "short": ""}


def number(value: float, unit: str) -> str:
    """Three digits and the unit: 0.9312 percentunit -> 93.1 %."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{_digits(100 * value)} %"
    if unit in ("bytes", "Bps"):
        return _scaled(value, BYTES, " B") + ("/s" if unit == "Bps" else "")
    if unit == "s":
        return _duration(value)
    return _scaled(value, SCALES, "") + SUFFIXES.get(unit, unit.removeprefix("suffix:"))


def size_of(value: float, unit: str) -> float:
    """How large the unit is in which a value is written: 60 for two minutes, 1024 for 3 KiB."""
    scales = BYTES if unit in ("bytes", "Bps") else TIMES if unit == "s" else ()
    return next((size for size, _ in scales if abs(value) >= size), 1.0)


def _duration(value: float) -> str:
    if 0 < abs(value) < 1:
        small = abs(value) < 1e-3
        return f"{_digits(value * (1e6 if small else 1e3))} {'µs' if small else 'ms'}"
    return _scaled(value, TIMES, " s")


def _scaled(value: float, scales: tuple[tuple[float, str], ...], least: str) -> str:
    for size, name in scales:
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)}{least}"


def _digits(value: float) -> str:
    """Three digits that count, without zeros at the end."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    text = f"{value:.{1 if abs(value) >= 10 else 2}f}"
    if 0 < abs(value) < 0.1:
        text = f"{value:.2g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
