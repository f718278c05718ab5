"""Rules and alerts: promtool accepts them, each alert has a case in which it fires and one in which it is silent, and each has its runbook entry."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from promql import ROOT, RULES, rules

CASES = RULES.with_name("firesteel.rules.test.yml")
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in rules() if "record" in rule}
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
NEEDED = {
    *("LearnerStalled", "LearnerStarved", "GeneratorDown", "GeneratorStraggler", "ActorFlapping", "StalenessHigh", "SandboxKillsHigh"),
    *("EntropyCollapse", "CheckpointOld", "CheckpointFailed", "JournalErrors", "WeightSyncSlow", "QueueFull", "CostBudget", "NodesUnpriced"),
    "RayJobFailed",
}


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]
    return found


def cases_of(alert: str, *, firing: bool) -> int:
    asked = [case for group in groups() for case in group.get("alert_rule_test", []) if case["alertname"] == alert]
    return sum(bool(case["exp_alerts"]) == firing for case in asked)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=120, cwd=RULES.parent, check=False)


def test_every_alert_that_the_runbook_promises_is_there() -> None:
    assert NEEDED - set(ALERTS) == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_firing_and_a_silent_case(alert: str) -> None:
    assert cases_of(alert, firing=True) >= 1
    assert cases_of(alert, firing=False) >= 1


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_has_a_case(record: str) -> None:
    expressions = [case["expr"] for group in groups() for case in group.get("promql_expr_test", [])]
    assert any(record in expr for expr in expressions)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_waits_says_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"\d+[sm]", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert "$labels." in notes["summary"]
    assert notes["description"].endswith(".")
    assert notes["runbook_url"] == f"docs/operations.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_runbook_entry_that_says_what_to_do(alert: str) -> None:
    entry = re.search(rf"^### {alert}\n(.*?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert entry is not None
    for word in ("**Means**", "**Look**", "**Do**"):
        assert word in entry[1]


def test_the_runbook_has_no_entry_for_an_alert_that_is_gone() -> None:
    entries = re.findall(r"^### (\w+)$", RUNBOOK.split("## Alerts")[1], re.MULTILINE)
    assert set(entries) == set(ALERTS)


def test_panels_that_the_runbook_names_exist() -> None:
    from deploy.monitoring.rows import ROWS

    titles = {panel.title for row in ROWS for panel in row.panels} | {row.title for row in ROWS}
    named = {" ".join(name.split()) for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", RUNBOOK)}
    assert named - titles == set()


@pytest.mark.processes
def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", RULES.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
def test_every_case_comes_out_as_written() -> None:
    done = promtool("test", "rules", CASES.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
def test_a_case_that_is_wrong_fails(tmp_path: Any) -> None:
    changed = RULES.read_text().replace("> 0.05\n        for: 10m", "> 0.5\n        for: 10m")
    assert changed != RULES.read_text()
    (tmp_path / RULES.name).write_text(changed)
    stale = [group for group in groups() if any(case["alertname"] == "StalenessHigh" for case in group.get("alert_rule_test", []))]
    (tmp_path / CASES.name).write_text(yaml.safe_dump({"rule_files": [RULES.name], "evaluation_interval": "1m", "tests": stale}))
    done = promtool("test", "rules", str(tmp_path / CASES.name))
    assert done.returncode != 0
    assert "StalenessHigh" in done.stdout + done.stderr
