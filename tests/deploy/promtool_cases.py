"""promtool, and its unit tests of rules and expressions that a test makes. Shared by the tests of this folder; skips where it is not installed."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from promql import RULES


def promtool(*arguments: str, folder: Path = RULES.parent) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([tool, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, cwd=folder, check=False)


def outcomes(folder: Path, asked: Mapping[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> dict[str, bool]:
    """Whether all cases come out as written, for each name's rules and cases; one promtool for all."""
    files = []
    for index, (rules, cases) in enumerate(asked.values()):
        (folder / f"{index}.rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
        files.append(f"{index}.test.yml")
        (folder / files[-1]).write_text(json.dumps({"rule_files": [f"{index}.rules.yml"], "evaluation_interval": "1m", "tests": cases}))
    done = promtool("test", "rules", *files, folder=folder)
    said = re.findall(r"Unit Testing:\s+(\S+)\n\s+(SUCCESS|FAILED)", done.stdout)
    assert [file for file, _ in said] == files, done.stdout[-2000:]
    return {name: outcome == "SUCCESS" for name, (_, outcome) in zip(asked, said, strict=True)}
