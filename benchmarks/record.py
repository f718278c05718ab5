"""The one form of a measurement: claims with what was measured, what was aimed at, and whether it holds.

Owns the format of `benchmarks/results/NAME.json`. Used by every benchmark and by the demo; measures nothing.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim; its aim is a least value unless `at_most`. measured: None where this machine cannot test it, the reason in the details."""

    claim: str
    measured: float | None
    aim: float
    unit: str
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.aim if self.at_most else self.measured >= self.aim


def write(
    name: str, claims: Sequence[Claim], *, command: str, details: Mapping[str, Any], flat: Mapping[str, Any] = {}, folder: Path = RESULTS
) -> str:
    """Write NAME.json into `folder`; returns the same as one line of JSON. A claim that could not be tested does not count against the whole.

    flat: further keys of the record itself, where somebody reads it by these names.
    """
    record = {
        "name": name,
        "claims": [{"claim": c.claim, "measured": c.measured, "aim": c.aim, "unit": c.unit, "holds": c.holds} for c in claims],
        "holds": bool(claims) and all(claim.holds is not False for claim in claims),
        **flat,
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "details": dict(details),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.dumps(record, ensure_ascii=False)


def commit() -> str:
    """The commit of the tree, marked where files differ from it; `unknown` outside a clone."""
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores, memory and Python of this machine, without its name."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"
