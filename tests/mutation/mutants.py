"""Which small faults a module can have: each is one change of its text, found in its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

_COMPARED = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_NEGATED = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<"}
"""Where one side is a named limit: nobody could tell it from one larger or smaller by one."""
_COMPUTED = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*",
    ast.LShift: ">>", ast.RShift: "<<", ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "|",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    module: str
    """Path from the checkout."""
    line: int
    start: int
    end: int
    """Bytes of the module that ``text`` replaces."""
    text: str
    was: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.was} -> {self.text}"


def mutants_of(module: str, source: bytes) -> list[Mutant]:
    """Return all faults of a module, in the order of its text."""
    return sorted(_Finder(module, source).find(), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


class _Finder:
    def __init__(self, module: str, source: bytes) -> None:
        self._module = module
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def find(self) -> Iterator[Mutant]:
        yield from self._in(ast.parse(self._source))

    def _in(self, node: ast.AST) -> Iterator[Mutant]:
        yield from self._of(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):  # no code that runs, or little that matters
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not self._is_left_out(child):
                    yield from self._scaled(child) if _is_named_number(child) else self._in(child)

    def _scaled(self, node: ast.Assign) -> Iterator[Mutant]:
        """A named number, such as a limit, a hundred times as large or as small; by one more it would do as well."""
        value = self._whole(node.value, "")
        for change in ("* 100", "/ 100" if "." in value.was or "e-" in value.was else "// 100"):
            yield self._whole(node.value, f"({value.was}) {change}")

    def _is_left_out(self, node: ast.AST) -> bool:
        """What no test can or should notice: types, and the words of messages, of the log and of help.

        ``strict`` of ``zip`` is an assertion: there are no inputs of other lengths.
        """
        if isinstance(node, ast.keyword) and node.arg in ("strict", "show_default"):
            return True
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("_log.", "_logger.", "cast")):
            return True
        return isinstance(node, ast.JoinedStr | ast.AnnAssign) and not getattr(node, "value", None)

    def _of(self, node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for index, operation in enumerate(node.ops):
                of_limit = _is_limit(sides[index]) or _is_limit(sides[index + 1])
                other = _NEGATED.get(type(operation)) if of_limit else None
                yield from self._between(sides[index], sides[index + 1], other or _COMPARED[type(operation)])
        elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED and not _is_text(node):
            yield from self._between(node.left, node.right, _COMPUTED[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            other = "or" if isinstance(node.op, ast.And) else "and"
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self._between(left, right, other)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._whole(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield self._whole(node, _other_value(node.value))
        elif isinstance(node, ast.IfExp | ast.If | ast.While):
            yield self._whole(node.test, "True" if isinstance(node, ast.IfExp) else "False")
        elif isinstance(node, ast.Return) and node.value is not None and not _is_nothing(node.value):
            yield self._whole(node.value, "None")
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield self._whole(node, "pass")
        elif isinstance(node, ast.Continue):
            yield self._whole(node, "break")
        elif isinstance(node, ast.Break):
            yield self._whole(node, "continue")

    def _whole(self, node: ast.AST, text: str) -> Mutant:
        return self._mutant(node.lineno, self._start(node), self._end(node), text)  # type: ignore[attr-defined]

    def _between(self, left: ast.AST, right: ast.AST, operator: str) -> Iterator[Mutant]:
        """Replace the operator, which stands between its sides, with brackets and line breaks around it."""
        start, end = self._end(left), self._start(right)
        gap = self._source[start:end]
        words = gap.replace(b"(", b" ").replace(b")", b" ").strip()
        if words and b"#" not in gap and b"\n" not in words:
            at = start + gap.index(words)
            yield self._mutant(left.end_lineno, at, at + len(words), operator)  # type: ignore[attr-defined]

    def _mutant(self, line: int, start: int, end: int, text: str) -> Mutant:
        return Mutant(self._module, line, start, end, text, self._source[start:end].decode())

    def _start(self, node: ast.AST) -> int:
        return self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def _end(self, node: ast.AST) -> int:
        return self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]


def _is_named_number(node: ast.AST) -> TypeGuard[ast.Assign]:
    return (
        isinstance(node, ast.Assign)
        and all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)
        and all(isinstance(part, ast.BinOp | ast.Constant | ast.operator) for part in ast.walk(node.value))
        and all(
            type(part.value) in (int, float) and part.value for part in ast.walk(node.value) if hasattr(part, "value")
        )
    )


def _is_limit(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id.isupper()


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in (node.left, node.right)
    )


def _is_nothing(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _other_value(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return str(not value)
    return repr(value + 1) if isinstance(value, int) else repr(value * 10 if value else 1.0)
