"""Laws of the table at a run's end: each row is the version that it says it is."""

from actors.run.final_table import final_table

LINES = [
    {"step": step, "version": f"0.{step}", "set": name, "accuracy": accuracy}
    for step, name, accuracy in [
        (0, "a", 0.1),
        (0, "b", 0.2),
        (0, "train", 0.0),
        (5, "a", 0.9),
        (5, "b", 0.3),
        (9, "a", 0.4),
        (9, "b", 0.4),
        (9, "train", 1.0),
    ]
]


def test_the_best_version_is_the_one_with_the_best_mean_over_held_out_sets() -> None:
    table = final_table(LINES, ["last", "best_average", "base_same_prompt"])
    assert table is not None
    assert list(table.columns[1].cells) == ["0.9", "0.5", "0.0"]
    assert list(table.columns[2].cells) == ["40.0", "90.0", "10.0"]
    assert list(table.columns[4].cells) == ["100.0", "–", "0.0"]


def test_without_an_evaluation_there_is_no_table() -> None:
    assert final_table([], ["last"]) is None


def test_a_report_of_nothing_is_no_table() -> None:
    assert final_table(LINES, []) is None


def test_what_was_not_judged_is_a_dash_and_never_the_best() -> None:
    lines = [{**line, "accuracy": None} if (line["step"], line["set"]) == (5, "b") else line for line in LINES]
    table = final_table(lines, ["best_average"])
    assert table is not None
    assert list(table.columns[1].cells) == ["0.9"]
    last = final_table([*lines, {"step": 12, "version": "0.12", "set": "a", "accuracy": None}], ["last"])
    assert last is not None
    assert list(last.columns[2].cells) == ["–"]
