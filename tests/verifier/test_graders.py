"""The paper's two graders, by the truth table of the recipe."""

import pytest

from verifier.algebra import decide
from verifier.graders import GRADERS

ACCEPTED = {
    "12.8": [
        "12.8",
        "12.80",
        "{12.8}",
        "$12.8$",
        "12.8\\,",
        "12.8\\%",
        "\\text{12.8}",
        "V=12.8",
        "V = 12.8",
        "64/5",
        "\\frac{64}{5}",
        "12\\frac{4}{5}",
        "12.8\\text{ mph}",
        "12.8 \\text{ miles per hour}",
    ],
    "\\frac{4}{3}": ["\\frac{4}{3}", "\\frac43", "\\dfrac{4}{3}", "4/3", "1\\frac{1}{3}", "m=\\frac{4}{3}", "m = \\frac{4}{3}"],
    "24": ["24", "24.0", "\\text{24}", "24\\text{ divisors}"],
}
REFUSED = {
    "12.8": ["12.7", "12.88", "13", "12,8", "\\approx 12.8", "12.8 mph", "12.8 miles per hour", "8\\sqrt[3]{4}"],
    "\\frac{4}{3}": ["1.3333", "\\frac{8}{6}"],
    "24": ["24 divisors", "24^{1}"],
}


def verdict(name: str, response: str, gold: str) -> str:
    grader = GRADERS[name]
    text = grader.extract(response, "all")
    if text is None:
        return "no_answer"
    answer = grader.parse(text)
    if answer is None:
        return "no_answer"
    decision = grader.settle(answer, grader.parse_gold(gold), answer_text=text, gold_text=gold)
    return (decision or decide(answer, grader.parse_gold(gold))).kind


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold, listed in ACCEPTED.items() for answer in listed])
def test_the_training_grader_accepts_what_the_paper_accepted(gold: str, answer: str) -> None:
    assert verdict("deepscaler_math", f"so $\\boxed{{{answer}}}$.", gold) == "correct"


@pytest.mark.parametrize(("gold", "answer"), [(gold, answer) for gold, listed in REFUSED.items() for answer in listed])
def test_the_training_grader_refuses_what_the_paper_refused(gold: str, answer: str) -> None:
    assert verdict("deepscaler_math", f"so $\\boxed{{{answer}}}$.", gold) != "correct"


@pytest.mark.parametrize(
    "response", ["12.8", "\\fbox{12.8}", "\\boxed{12.8", "\\boxed {12.8}", "\\boxed 12.8", "\\boxed{12.8} then \\boxed{3}", "\\boxed{12.8} \\boxed{"]
)
def test_the_training_grader_reads_the_last_closed_box_alone(response: str) -> None:
    assert verdict("deepscaler_math", response, "12.8") != "correct"


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("12.8", "\\boxed{12.8}"),
        ("12.8", "\\boxed{12.8"),
        ("12.8", "The answer is 12.8."),
        ("12.8", "we get 12.8"),
        ("12.8", "\\boxed{12.8005}"),
        ("0.35", "\\boxed{35}"),
        ("35", "\\boxed{0.35}"),
        ("35\\%", "\\boxed{35}"),
        ("\\frac{1}{3}", "\\boxed{0.33333}"),
        ("25000", "\\boxed{25002}"),
        ("(1,2)", "\\boxed{(1.00001,2)}"),
        ("x^2+2x+1", "\\boxed{(x+1)^2}"),
        ("5", "\\boxed{x=5}"),
        ("\\text{Evelyn}", "\\boxed{\\text{evelyn}}"),
        ("\\frac{8}{6}", "\\boxed{\\frac43}"),
        ("\\sqrt2", "\\boxed{1.41421}"),
    ],
)
def test_the_evaluation_grader_is_lenient_as_the_paper_was(gold: str, response: str) -> None:
    assert verdict("qwen25_math", response, gold) == "correct"


@pytest.mark.parametrize(
    ("gold", "response"),
    [("12.8", "\\boxed{12.9}"), ("3", "no number here"), ("(1,2)", "\\boxed{(2,1)}"), ("x", "\\boxed{y}"), ("2", "\\boxed{250}")],
)
def test_the_evaluation_grader_refuses_what_is_different(gold: str, response: str) -> None:
    assert verdict("qwen25_math", response, gold) != "correct"
