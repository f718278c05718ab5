"""How a value reads on the dashboard: Grafana's units, mappings, thresholds and legends, as far as firesteel.json uses them.

Owns the words; draws nothing. A unit that is not known here is an error, so that no picture shows a bare number for a new one.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
SMALL_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def in_unit(value: float, unit: str, decimals: int | None = None) -> str:
    """The value with its unit. Raises ValueError for a unit that is not known here."""
    if unit.startswith("suffix:"):
        return f"{_scaled(value, decimals)} {unit.removeprefix('suffix:').strip()}"
    if unit == "short":
        return _scaled(value, decimals)
    if unit == "none":  # a code, not a quantity
        return _plain(value, decimals)
    if unit == "percentunit":
        return f"{_plain(100 * value, decimals)}%"
    if unit == "currencyUSD":
        return f"${_scaled(value, decimals)}"
    if unit in ("bytes", "Bps"):
        size, name = next(((size, name) for size, name in BYTES if abs(value) >= size), (1, "B"))
        return f"{_plain(value / size, decimals)} {name}{'/s' if unit == 'Bps' else ''}"
    if unit == "s":
        return _duration(value, decimals)
    if unit == "sci":
        return f"{value:.3g}"
    if unit == "watt":
        return f"{_scaled(value, decimals)} W"
    raise ValueError(f"the unit {unit!r} of firesteel.json has no words in {__name__}")


def reading(value: float, defaults: Mapping[str, Any]) -> tuple[str, str]:
    """What a stat panel shows for a value: its words, and the name of its colour."""
    for mapping in defaults.get("mappings") or ():
        options = mapping["options"]
        if options["from"] <= value <= options["to"]:
            return str(options["result"]["text"]), str(options["result"]["color"])
    color = "green"
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step.get("value") is None or value >= step["value"]:
            color = str(step["color"])
    return in_unit(value, defaults.get("unit", "short"), defaults.get("decimals")), color


def legend_of(pattern: str, labels: Mapping[str, str]) -> str:
    """Grafana's legend of one series: {{label}} stands for its value; without a pattern, all labels."""
    if not pattern or pattern == "__auto":
        return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), pattern)


def _scaled(value: float, decimals: int | None) -> str:
    size, name = next(((size, name) for size, name in SCALES if abs(value) >= size), (1.0, ""))
    return f"{_plain(value / size, decimals)}{f' {name}' if name else ''}"


def _duration(value: float, decimals: int | None) -> str:
    for size, name in TIMES:
        if abs(value) >= size:
            return f"{_plain(value / size, decimals)} {name}"
    size, name = next(((size, name) for size, name in SMALL_TIMES if abs(value) >= size), SMALL_TIMES[0])
    return f"{_plain(value / size, decimals)} {name}"


def _plain(value: float, decimals: int | None) -> str:
    """Three significant digits, or so many decimals."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0:
        return "0"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
