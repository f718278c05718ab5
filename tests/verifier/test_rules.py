"""The labelled rows: every kind of answer with the verdict that it must have."""

import pathlib
from typing import Any

import pytest
from judge import rows, verdict

OWN = [pathlib.Path(__file__).with_name(f"cases_{name}.jsonl") for name in ("own", "siblings")]


def wrong_ones(cases: list[dict[str, Any]]) -> list[str]:
    return [f"{case['id']} {case['gold']!r}" for case in cases if (verdict(case["response"], case["gold"]) == "correct") != case["expected"]]


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_every_row_of_our_own_has_its_verdict(file: pathlib.Path) -> None:
    assert wrong_ones(rows(file)) == []


def test_the_labelled_rows_keep_to_the_bar(shared: pathlib.Path) -> None:
    cases = rows(shared / "verifier_cases.jsonl")
    wrong = {case["id"]: case for case in cases if (verdict(case["response"], case["gold"]) == "correct") != case["expected"]}
    plain = [case for case in cases if not case["policy"]]
    policies = [case for case in cases if case["policy"]]
    assert [case["id"] for case in wrong.values() if not case["policy"] and not case["expected"]] == []
    assert sum(case["id"] not in wrong for case in plain) >= 0.99 * len(plain)
    assert sum(case["id"] not in wrong for case in policies) >= 0.97 * len(policies)


def test_no_hostile_row_is_called_correct(shared: pathlib.Path) -> None:
    caught = []
    for case in rows(shared / "verifier_hostile.jsonl"):
        response, gold = (case[key] if key in case else "".join(text * count for text, count in case[f"{key}_parts"]) for key in ("response", "gold"))
        try:
            kind = verdict(response, gold)
        except ValueError:
            continue
        if kind == "correct" and case["must"]["verdict"] == "not_correct":
            caught.append(case["id"])
    assert caught == []
