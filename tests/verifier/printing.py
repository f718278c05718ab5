"""A printer of trees for the laws of the parser: what it prints is read back as the same tree."""

from verifier.nodes import Kind, Node

_ATOMS = (Kind.NUMBER, Kind.REPEATING, Kind.NAME, Kind.CALL, Kind.ROOT, Kind.QUOTIENT)


def latex(node: Node) -> str:
    items = [latex(item) for item in node.items]
    match node.kind:
        case Kind.NUMBER:
            return node.text
        case Kind.REPEATING:
            head, _, cycle = node.text.rstrip(")").partition("(")
            return f"{head}\\overline{{{cycle}}}"
        case Kind.NAME:
            return node.text + (" " if node.text.startswith("\\") else "")
        case Kind.SUM:
            first, *others = (_operand(item) for item in node.items)
            return first + "".join(_signed(item, text) for item, text in zip(node.items[1:], others, strict=True))
        case Kind.PRODUCT:
            return "\\cdot ".join(_operand(item) for item in node.items)
        case Kind.QUOTIENT:
            return f"\\frac{{{items[0]}}}{{{items[1]}}}"
        case Kind.NEGATIVE:
            return "-" + _operand(node.items[0])
        case Kind.POWER:
            return f"{_base(node.items[0])}^{{{items[1]}}}"
        case Kind.ROOT:
            return f"\\sqrt{{{items[0]}}}" if items[1] == "2" else f"\\sqrt[{items[1]}]{{{items[0]}}}"
        case Kind.MIXED:
            return f"{items[0]}\\frac{{{items[1]}}}{{{items[2]}}}"
        case Kind.CALL:
            return {"abs": "|{}|", "floor": "\\lfloor {}\\rfloor "}.get(node.text, f"\\{node.text}({{}})").format(items[0])
        case Kind.PERCENT:
            return _operand(node.items[0]) + "\\%"
        case Kind.TUPLE:
            return "(" + ",".join(items) + ")"
        case Kind.SET:
            return "\\{" + ",".join(items) + "\\}"
        case Kind.INTERVAL:
            return node.text[0] + ",".join(items) + node.text[1]
        case Kind.LIST:
            return ", ".join(items)
        case Kind.RELATION:
            return items[0] + node.text + items[1]
    raise AssertionError(node.kind)


def _operand(node: Node) -> str:
    return latex(node) if node.kind in _ATOMS and not (node.kind is Kind.CALL and node.text == "abs") else f"({latex(node)})"


def _base(node: Node) -> str:
    return latex(node) if node.kind in (Kind.NUMBER, Kind.NAME) else f"({latex(node)})"


def _signed(node: Node, text: str) -> str:
    return "-" + _operand(node.items[0]) if node.kind is Kind.NEGATIVE else "+" + text
