"""Problems: what is asked, what is right, and how a prompt is written.

Owns the JSONL format, the shipped one-shot examples and the templates. Called by the controller and the evaluation. Knows no tokenizer: the model's
chat template arrives as a function.
"""

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rlvr.config import PromptsConfig
from rlvr.config_paths import BUILT_IN_TEMPLATES
from rlvr.config_schema import nearest
from rlvr.errors import ConfigError, ProblemError

Chat = Callable[[list[dict[str, str]]], str]
"""The model's own chat template: messages with role and content -> prompt text that ends where the assistant begins."""

NonEmpty = Annotated[str, Meta(min_length=1)]
SHIPPED_DEFAULT = ("pi_1",)
PLACEHOLDER = "{prompt}"
_QWEN25_MATH_COT = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
)


class Problem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One problem, as a line of a problem file has it.

    answer: the gold answer. weight and meta travel with the problem for samplers and reports that read them; the built-in samplers do not.
    """

    id: NonEmpty
    prompt: NonEmpty
    answer: NonEmpty
    weight: Annotated[float, Meta(gt=0.0)] = 1.0
    meta: dict[str, Any] = {}


def load_problems(path: Path) -> tuple[Problem, ...]:
    """Read a problem file: JSONL in UTF-8, blank lines allowed. Raises ProblemError that names file, line and what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"the problem file {path} cannot be read: {error.strerror or error}") from error
    return _parse(data, name=str(path))


def shipped_problems() -> tuple[Problem, ...]:
    """The named examples of 1-shot RLVR (arXiv:2504.20571): pi_1 ... pi_17 and others."""
    return _parse(importlib.resources.files("rlvr").joinpath("oneshot.jsonl").read_bytes(), name="the shipped examples")


def training_problems(prompts: PromptsConfig) -> tuple[Problem, ...]:
    """The problems that a run trains on: its file's, or the shipped ones, selected and relabelled as `[prompts]` says."""
    if prompts.file:
        return select(load_problems(Path(prompts.file)), prompts)
    if prompts.problems is None:
        prompts = msgspec.structs.replace(prompts, problems=SHIPPED_DEFAULT)
    return select(shipped_problems(), prompts)


def select(problems: Sequence[Problem], prompts: PromptsConfig) -> tuple[Problem, ...]:
    """The problems named by prompts.problems, in that order (all of them where it is left out), with the labels of prompts.answers.

    Raises ConfigError for an id that no problem has, or a label of a problem that does not train.
    """
    by_id = {problem.id: problem for problem in problems}
    wanted = tuple(by_id) if prompts.problems is None else prompts.problems
    for id_ in wanted:
        if id_ not in by_id:
            raise ConfigError(f"prompts.problems: there is no problem {id_!r}; {_known(id_, by_id)}")
    for id_ in prompts.answers:
        if id_ not in wanted:
            raise ConfigError(f"prompts.answers: {id_!r} is no problem of this run; {_known(id_, wanted)}")
    return tuple(msgspec.structs.replace(by_id[id_], answer=prompts.answers.get(id_, by_id[id_].answer)) for id_ in wanted)


def render(problem: Problem, template: str, user_suffix: str, chat: Chat | None = None) -> str:
    """The text that the model continues.

    template: "raw" (the problem's prompt alone), "chat" (one user turn: the prompt, and user_suffix after a space unless the prompt ends with it),
    "qwen25-math-cot", or the path of a template file, in which every {prompt} is replaced and all else, other braces and the last newline too, stays
    as written. "" is chat where the model has a chat template, else raw. Raises ConfigError when the template cannot be used.
    """
    template = template or ("raw" if chat is None else "chat")
    if template == "raw":
        return problem.prompt
    if template == "chat":
        if chat is None:
            raise ConfigError('prompts.template = "chat", but the tokenizer has no chat template; "raw" or a template file would do')
        return chat([{"role": "user", "content": _with_suffix(problem.prompt, user_suffix)}])
    text = _QWEN25_MATH_COT if template == "qwen25-math-cot" else _template_file(template)
    return text.replace(PLACEHOLDER, problem.prompt)


def _with_suffix(prompt: str, suffix: str) -> str:
    if not suffix or prompt.rstrip().endswith(suffix.rstrip()):
        return prompt
    return prompt + ("" if prompt[-1].isspace() or suffix[0].isspace() else " ") + suffix


def _template_file(path: str) -> str:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no template file {path}; built in are {', '.join(BUILT_IN_TEMPLATES)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the template file {path} cannot be read: {error}") from error
    if PLACEHOLDER not in text:
        raise ConfigError(f"the template file {path} has no {PLACEHOLDER}, where the problem's prompt belongs")
    return text


def _parse(data: bytes, *, name: str) -> tuple[Problem, ...]:
    first_line: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        problem = _parse_line(line, where=f"{name}, line {number}")
        if problem.id in first_line:
            raise ProblemError(f"{name}, line {number}: the id {problem.id!r} is that of line {first_line[problem.id]} too")
        first_line[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ProblemError(f"{name} is empty: it needs at least one line such as " + '{"id": "p1", "prompt": "2+2=?", "answer": "4"}')
    return tuple(problems)


def _parse_line(line: bytes, *, where: str) -> Problem:
    try:
        problem = msgspec.json.decode(line.decode("utf-8"), type=Problem)
    except UnicodeDecodeError as error:
        raise ProblemError(f"{where}: byte {error.start + 1} is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise ProblemError(f"{where}: {_sentence(str(error))}") from error
    for field in ("id", "prompt", "answer"):
        if not getattr(problem, field).strip():
            raise ProblemError(f"{where}: {field} is blank")
    return problem


def _sentence(message: str) -> str:
    """msgspec's message with the field first, and with what would do where a gold answer was written as a number."""
    complaint, at, path = message.partition(" - at `$.")
    field = path.rstrip("`")
    if field == "answer" and complaint.startswith("Expected `str`"):
        complaint += '; write it as a string, as "12.8"'
    if complaint.startswith("Object contains unknown field"):
        complaint += "; known are id, prompt, answer, weight, and meta for everything else"
    return f"{field}: {complaint}" if at else complaint


def _known(wanted: str, ids: Mapping[str, Any] | Sequence[str]) -> str:
    guess = nearest(wanted, ids)
    listed = ", ".join(list(ids)[:8])
    return f"did you mean {guess!r}?" if guess else f"there are {len(ids)}: {listed}{', ...' if len(ids) > 8 else ''}"
