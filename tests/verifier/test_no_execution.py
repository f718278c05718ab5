"""Model text never becomes code: what may not even be named in the verifier."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import verifier

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "sympify",
    "parse_expr",
    "parse_latex",
    "lambdify",
    "pickle",
    "marshal",
    "shelve",
    "autowrap",
    "ufuncify",
    "__import__",
}
FOLDER = Path(verifier.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


def names_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("re", "compile")):
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (part for alias in node.names for part in alias.name.split("."))
            yield from (getattr(node, "module", None) or "").split(".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_nothing_that_runs_text_is_named(path: Path) -> None:
    assert FORBIDDEN.isdisjoint(names_in(path))


def test_the_law_itself_sees_a_hidden_call(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sympy.core.sympify as s\nfrom sympy import parse_expr as p\nbuiltins.eval(x)\n")
    assert {"sympify", "parse_expr", "eval"} <= set(names_in(tmp_path / "bad.py"))
