"""One case through the rules in this process, without the sandbox: what the tests of the mathematics share."""

import functools
import json
import pathlib
from typing import Any

from verifier import algebra
from verifier.answers import parse, parse_gold
from verifier.compare import settle
from verifier.extract import extract


@functools.cache
def warm() -> None:
    algebra.warm_up()


def verdict(response: str, gold: str) -> str:
    """The kind of the verdict, as the rules alone give it. Raises ValueError for a gold that cannot be read."""
    warm()
    tree = parse_gold(gold)
    text = extract(response, "all")
    answer = None if text is None else parse(text)
    if answer is None or text is None:
        return "no_answer"
    return (settle(answer, tree, answer_text=text, gold_text=gold) or algebra.decide(answer, tree)).kind


def of_answer(answer: str, gold: str) -> str:
    return verdict(f"So the answer is $\\boxed{{{answer}}}$.", gold)


def rows(file: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
