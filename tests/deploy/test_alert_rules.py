"""Rules and alerts: promtool accepts them, each alert has a case in which it fires and one in which it is silent, and each has its runbook entry."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import ROOT, RULES, rules
from promtool_cases import outcomes, promtool

CASES = RULES.with_name("firesteel.rules.test.yml")
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in rules() if "record" in rule}
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
NEEDED = {
    *("LearnerStalled", "LearnerStarved", "GeneratorDown", "GeneratorStraggler", "ActorFlapping", "StalenessHigh", "SandboxKillsHigh"),
    *(
        "RunFailed",
        "ControllerDown",
        "EntropyCollapse",
        "CheckpointOld",
        "CheckpointFailed",
        "JournalErrors",
        "WeightSyncSlow",
        "QueueFull",
        "CostBudget",
        "NodesUnpriced",
    ),
    *("RunFailed", "ControllerDown", "RayJobFailed"),
}


@functools.cache
def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.load(CASES.read_text(), Loader=yaml.CSafeLoader)["tests"]
    return found


def cases_of(alert: str, *, firing: bool) -> int:
    asked = [case for group in groups() for case in group.get("alert_rule_test", []) if case["alertname"] == alert]
    return sum(bool(case["exp_alerts"]) == firing for case in asked)


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
    assert rule["labels"]["system"] == "firesteel", "the dashboard counts these alone"
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
    assert done.returncode == 0, done.stdout


@pytest.mark.processes
def test_every_case_comes_out_as_written(tmp_path: Path) -> None:
    """Each with the rules that it is about; `promtool test rules` on the files as they are does the same, and takes longer."""
    asked = {rule: what_is_about(rule) for rule in ALERTS}
    of_records = [group for group in groups() if "promql_expr_test" in group]
    asked["records"] = (RECORDS, of_records)
    assert sum(len(cases) for _, cases in asked.values()) >= len(groups())
    found = outcomes(tmp_path, {name: ([*about.values()], cases) for name, (about, cases) in asked.items()})
    assert [name for name, is_success in found.items() if not is_success] == []


def numbers() -> list[tuple[str, str, re.Match[str]]]:
    """Every number of an alert, or of a record that an alert needs, but 0 and 1 which say yes and no: the rule, its expression, where in it."""
    asked = {record for record in RECORDS if any(record in rule["expr"] for rule in ALERTS.values())}
    found = [(name, rule["expr"]) for name, rule in {**ALERTS, **{name: RECORDS[name] for name in asked}}.items()]
    outside = r'(?<![\w."\[{])(?:\d+\.\d+|\d+)(?![\w.\]])'
    return [(name, expr, number) for name, expr in found for number in re.finditer(outside, expr) if float(number[0]) not in (0, 1)]


def what_is_about(rule: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rules and the cases that come out otherwise where that rule does."""
    concerned = {rule} | {name for name, alert in ALERTS.items() if rule in alert["expr"]}
    cases = [group for group in groups() if concerned & {case.get("alertname") for case in group.get("alert_rule_test", [])}]
    alerts = {name: ALERTS[name] for name in concerned & set(ALERTS)}
    records = {name: record for name, record in RECORDS.items() if any(name in alert["expr"] for alert in alerts.values())}
    return {**records, **alerts}, cases


@pytest.mark.processes
def test_every_number_matters_halved_or_doubled_a_case_comes_out_otherwise(tmp_path: Path) -> None:
    mutants = {}
    for name, expr, number in numbers():
        for factor in (0.5, 2.0):
            changed = expr[: number.start()] + f"{factor * float(number[0]):g}" + expr[number.end() :]
            about, cases = what_is_about(name)
            loaded = [{**rule, "expr": changed} if key == name else rule for key, rule in about.items()]
            mutants[f"{name}: {number[0]} at {number.start()}, times {factor}"] = (loaded, cases)
    unnoticed = [mutant for mutant, is_success in outcomes(tmp_path, mutants).items() if is_success]
    assert len(mutants) > 50
    assert not unnoticed, "\n".join(unnoticed)
