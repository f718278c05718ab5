"""Problem files and prompts: what is read, what is refused, what the model is given."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config import PromptsConfig
from rlvr.errors import ConfigError, ProblemError
from rlvr.problems import Problem, load_problems, render, select, shipped_problems, training_problems

settings.load_profile("ci")  # no deadlines, which a busy machine would miss, and the same examples each time

SUFFIX = PromptsConfig().user_suffix
SUM = Problem(id="sum", prompt="2+2=?", answer="4")
GOOD = '{"id": "a", "prompt": "1+1=?", "answer": "2"}'


def read(folder: Path, content: str | bytes) -> tuple[Problem, ...]:
    path = folder / "p.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_problems(path)


def test_a_line_is_a_problem(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, '{"id": "a", "prompt": "1+1=?", "answer": "2", "weight": 2, "meta": {"level": [1]}}')
    assert problem == Problem(id="a", prompt="1+1=?", answer="2", weight=2.0, meta={"level": [1]})


def test_one_problem_is_a_data_set(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD)) == 1


def test_byte_order_marks_blank_lines_and_carriage_returns_are_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf\r\n" + GOOD.encode() + b"\r\n\n  \n")[0].id == "a"


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    assert read(tmp_path, '{"id": "a", "prompt": "one\u2028two\u0085", "answer": "2"}')[0].prompt == "one\u2028two\u0085"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "p.jsonl is empty: it needs at least one line such as"),
        ("\n \n", "is empty"),
        (GOOD + "\n\n{", "line 3: Input data was truncated"),
        (GOOD + "\nhello", "line 2: JSON is malformed"),
        ("[]", "line 1: Expected `object`, got `array`"),
        (GOOD + "\n" + GOOD, "line 2: the id 'a' is that of line 1 too"),
        ('{"id": "a", "answer": "2"}', "line 1: Object missing required field `prompt`"),
        ('{"id": "a", "prompt": "x", "answer": 12.8}', 'line 1: answer: Expected `str`, got `float`; write it as a string, as "12.8"'),
        ('{"id": "a", "prompt": "x", "answer": " "}', "line 1: answer is blank"),
        ('{"id": "", "prompt": "x", "answer": "2"}', "line 1: id: Expected `str` of length >= 1"),
        (
            '{"id": "a", "prompt": "x", "answer": "2", "wieght": 2}',
            "line 1: Object contains unknown field `wieght`; known are id, prompt, answer, weight, and meta",
        ),
        ('{"id": "a", "prompt": "x", "answer": "2", "weight": 0}', "line 1: weight: Expected `float` > 0.0"),
        ('{"id": "a", "prompt": "x", "answer": "2", "weight": NaN}', "line 1: JSON is malformed"),
        (b'{"id": "a", "prompt": "\xff", "answer": "2"}', "line 1: byte 24 is not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_reason(content: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=reason.replace("(", r"\(")) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "p.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)


LINES = st.dictionaries(
    st.sampled_from(["id", "prompt", "answer", "weight", "meta"]) | st.text(max_size=3), st.text(max_size=3) | st.floats() | st.none() | st.just({})
).map(lambda line: json.dumps(line).encode())


@given(st.lists(LINES | st.binary(max_size=30), max_size=3).map(b"\n".join))
def test_whatever_a_problem_file_holds_it_loads_or_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    try:
        outcome: object = read(tmp_path_factory.getbasetemp(), content)
    except ProblemError as error:
        outcome = str(error)
    assert isinstance(outcome, tuple) or str(outcome).isprintable()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"none.jsonl cannot be read: No such file"):
        load_problems(tmp_path / "none.jsonl")


@given(st.lists(st.builds(Problem, id=st.text("ab\u2028 ", min_size=1), prompt=st.just("x\ny"), answer=st.just("2")), min_size=1, max_size=5))
def test_what_json_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> None:
    unique = {problem.id: problem for problem in problems if problem.id.strip()}
    if unique:
        lines = [json.dumps({"id": one.id, "prompt": one.prompt, "answer": one.answer}, ensure_ascii=False) for one in unique.values()]
        assert read(tmp_path_factory.mktemp("p"), "\n".join(lines)) == tuple(unique.values())


def test_problems_are_selected_in_the_order_asked_and_relabelled() -> None:
    problems = [Problem(id=id_, prompt=id_, answer="1") for id_ in "abc"]
    chosen = select(problems, PromptsConfig(problems=("c", "a"), answers={"a": "9"}))
    assert [(one.id, one.answer) for one in chosen] == [("c", "1"), ("a", "9")]
    assert select(problems, PromptsConfig()) == tuple(problems)


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        (PromptsConfig(problems=("pi_01",)), "prompts.problems: there is no problem 'pi_01'; did you mean 'pi_1'\\?"),
        (PromptsConfig(problems=("zzz",)), "there is no problem 'zzz'; there are 23: pi_1, pi_2, .*, \\.\\.\\."),
        (PromptsConfig(problems=("pi_1",), answers={"pi_2": "1"}), "prompts.answers: 'pi_2' is no problem of this run; did you mean 'pi_1'"),
    ],
)
def test_an_unknown_id_is_refused_with_the_nearest(prompts: PromptsConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        select(shipped_problems(), prompts)


def test_without_a_file_the_first_shipped_example_trains() -> None:
    (problem,) = training_problems(PromptsConfig())
    assert (problem.id, problem.answer) == ("pi_1", "12.8")
    assert [one.id for one in training_problems(PromptsConfig(problems=("pi_13", "pi_1")))] == ["pi_13", "pi_1"]


def test_with_a_file_every_problem_of_it_trains(tmp_path: Path) -> None:
    read(tmp_path, GOOD + "\n" + GOOD.replace('"a"', '"b"'))
    assert [one.id for one in training_problems(PromptsConfig(file=str(tmp_path / "p.jsonl")))] == ["a", "b"]


def test_the_shipped_examples_are_the_papers_and_say_where_they_come_from(shared: Path) -> None:
    source = json.loads((shared / "oneshot_examples.json").read_text(encoding="utf-8"))
    assert [(one["name"], one["prompt"], one["answer"]) for one in source] == [(one.id, one.prompt, one.answer) for one in shipped_problems()]
    assert all("DeepScaleR" in one.meta["source"] and one.meta["license"] == "MIT" for one in shipped_problems())
    assert all(one.prompt.endswith(SUFFIX) for one in shipped_problems())


def chat(messages: list[dict[str, str]]) -> str:
    return "".join(f"<{one['role']}>{one['content']}" for one in messages) + "<assistant>"


def test_raw_is_the_prompt_alone() -> None:
    assert render(SUM, "raw", SUFFIX, chat) == "2+2=?"


def test_chat_is_one_user_turn_with_the_suffix() -> None:
    assert render(SUM, "chat", "Think.", chat) == "<user>2+2=? Think.<assistant>"


@pytest.mark.parametrize(
    ("prompt", "suffix", "asked"),
    [
        ("Why? Think.", "Think.", "Why? Think."),
        ("Why? Think.\n", "Think.", "Why? Think.\n"),
        ("Why?\n", "Think.", "Why?\nThink."),
        ("Why?", "\n\nThink.", "Why?\n\nThink."),
        ("Why?", "", "Why?"),
    ],
)
def test_the_suffix_is_added_once_and_set_apart(prompt: str, suffix: str, asked: str) -> None:
    assert render(Problem(id="p", prompt=prompt, answer="1"), "chat", suffix, chat) == f"<user>{asked}<assistant>"


def test_a_shipped_prompt_brings_its_suffix_along() -> None:
    prompt = shipped_problems()[0].prompt
    assert render(shipped_problems()[0], "chat", SUFFIX, chat) == f"<user>{prompt}<assistant>"


def test_no_template_is_chat_where_the_model_has_one_and_else_raw() -> None:
    assert render(SUM, "", "Think.", chat) == render(SUM, "chat", "Think.", chat)
    assert render(SUM, "", "Think.", None) == "2+2=?"


def test_chat_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        render(SUM, "chat", SUFFIX, None)


def test_the_papers_evaluation_template_puts_the_instruction_into_the_system_turn() -> None:
    assert render(SUM, "qwen25-math-cot", SUFFIX) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n2+2=?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_file_is_taken_as_written_but_for_its_placeholders(tmp_path: Path) -> None:
    template = tmp_path / "t.txt"
    template.write_bytes(b"{x} {{}} \\boxed{}\r\nQ: {prompt}\nagain: {prompt}\nA:\n")
    problem = Problem(id="p", prompt="{prompt} and {0}", answer="1")
    assert render(problem, str(template), SUFFIX, chat) == "{x} {{}} \\boxed{}\r\nQ: {prompt} and {0}\nagain: {prompt} and {0}\nA:\n"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"Q: {question}", "has no {prompt}"), (b"\xff", "cannot be read"), (None, "there is no template file")]
)
def test_a_template_file_that_cannot_serve_is_refused(content: bytes | None, reason: str, tmp_path: Path) -> None:
    template = tmp_path / "t.txt"
    if content is not None:
        template.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        render(SUM, str(template), SUFFIX, chat)
