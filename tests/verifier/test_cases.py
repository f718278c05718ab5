"""`firesteel verify`: files in, files out."""

import io
import json
from pathlib import Path

import pytest

from rlvr.errors import UserError
from verifier.cases import CasesReport, check_rows, judge_rows, verify_file
from verifier.verify import Verifier

pytestmark = pytest.mark.processes


def written(folder: Path, *lines: str) -> Path:
    path = folder / "cases.jsonl"
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def row(name: str, response: str, gold: str) -> str:
    return json.dumps({"id": name, "response": response, "gold": gold})


def judged(verifier: Verifier, folder: Path, *lines: str) -> tuple[CasesReport, list[dict[str, object]]]:
    cases, target = written(folder, *lines), io.StringIO()
    report = judge_rows(verifier, cases, target, num_rows=check_rows(cases))
    return report, [json.loads(line) for line in target.getvalue().splitlines()]


def test_each_row_gets_its_verdict_in_the_same_order(verifier: Verifier, tmp_path: Path) -> None:
    rows = [row(str(number), rf"so \boxed{{{number % 7}}}", "5") for number in range(1_500)]
    report, verdicts = judged(verifier, tmp_path, *rows)
    assert [verdict["id"] for verdict in verdicts] == [str(number) for number in range(1_500)]
    assert [verdict["reward"] for verdict in verdicts] == [1.0 if number % 7 == 5 else 0.0 for number in range(1_500)]
    assert [verdict["answer"] for verdict in verdicts] == [str(number % 7) for number in range(1_500)]
    assert set(verdicts[0]) == {"id", "kind", "reward", "seconds", "answer"}
    assert report.num_rows == 1_500
    assert sum(report.kinds.values()) == 1_500


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "not JSON"),
        ("[1, 2]", "got an array"),
        ("17", "got a number"),
        ('{"id": "a", "response": "b"}', "gold is missing"),
        ('{"id": "a", "response": null, "gold": "5"}', "response has to be a string, got null"),
        ('{"id": 3, "response": "b", "gold": "5"}', "id has to be a string, got a number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_written(tmp_path: Path, line: str, reason: str) -> None:
    cases = written(tmp_path, row("a", "5", "5"), line)
    with pytest.raises(UserError, match=f"line 2: .*{reason}"):
        verify_file(cases, tmp_path / "verdicts.jsonl")
    assert list(tmp_path.iterdir()) == [cases]


def test_bytes_that_are_no_utf8_are_a_malformed_line(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_bytes(b'{"id": "a", "response": "\xff", "gold": "5"}\n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        verify_file(cases, tmp_path / "verdicts.jsonl")


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        verify_file(tmp_path / "absent.jsonl", tmp_path / "verdicts.jsonl")
    cases = written(tmp_path, row("a", "5", "5"))
    with pytest.raises(UserError, match=r"verdicts\.jsonl"):
        verify_file(cases, tmp_path / "absent" / "verdicts.jsonl")


def test_a_gold_that_does_not_parse_is_that_rows_fault_of_ours_and_is_named_once(
    verifier: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, verdicts = judged(verifier, tmp_path, row("a", r"\boxed{5}", "5"), row("b", r"\boxed{5}", ""), row("c", r"\boxed{5}", "5"))
    assert [(verdict["kind"], verdict["reward"]) for verdict in verdicts] == [("correct", 1.0), ("sandbox", None), ("correct", 1.0)]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith('"b": ')


def test_surrogates_and_nul_bytes_are_judged_and_survive(verifier: Verifier, tmp_path: Path) -> None:
    rows = [r'{"id": "\ud800", "response": "\\boxed{\udfff}", "gold": "5"}', r'{"id": "n", "response": "\u0000\\boxed{5}\u0000", "gold": "5"}']
    _, verdicts = judged(verifier, tmp_path, *rows)
    assert [verdict["id"] for verdict in verdicts] == ["\ud800", "n"]
    assert [verdict["reward"] for verdict in verdicts] == [0.0, 1.0]


def test_verdicts_replace_an_older_file_only_when_all_are_there(tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    out.write_text("older")
    with pytest.raises(UserError):
        verify_file(written(tmp_path, "{"), out)
    assert out.read_text() == "older"
    verify_file(written(tmp_path, row("a", "5", "5"), "", row("b", "6", "5")), out)
    assert len(out.read_text().splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.jsonl", "verdicts.jsonl"]


def test_an_empty_file_gives_no_verdicts(verifier: Verifier, tmp_path: Path) -> None:
    report, verdicts = judged(verifier, tmp_path)
    assert (report, verdicts) == (CasesReport(0, {}), [])
