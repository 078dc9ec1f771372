"""Checks that a text is a size expression of torch.export and quick to evaluate.

torch passes the text to sympy, which evaluates it as Python. The allowed forms are those of sympy's
srepr, and the functions that torch adds (torch/utils/_sympy/functions.py).
"""

from __future__ import annotations

import ast
import re

INTEGER_LIMIT = 2**64
EXPONENT_LIMIT = 64
LENGTH_LIMIT = 20_000

FUNCTIONS = frozenset(
    (
        "Add", "Mul", "Pow", "Max", "Min", "Abs", "Mod", "floor", "ceiling", "Not", "And",
        "Or", "Xor", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality",
        "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Piecewise",
        "ExprCondPair", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv",
        "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural",
        "FloatPow", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
        "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor",
        "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity",
        "OpaqueUnaryFn_sqrt", "OpaqueUnaryFn_cos", "OpaqueUnaryFn_cosh",
        "OpaqueUnaryFn_sin", "OpaqueUnaryFn_sinh", "OpaqueUnaryFn_tan",
        "OpaqueUnaryFn_tanh", "OpaqueUnaryFn_asin", "OpaqueUnaryFn_acos",
        "OpaqueUnaryFn_atan", "OpaqueUnaryFn_exp", "OpaqueUnaryFn_log",
        "OpaqueUnaryFn_asinh", "OpaqueUnaryFn_log2",
    )
)  # fmt: skip
POWERS = {"Pow", "PowByNatural", "FloatPow", "LShift"}
CONSTANTS = {"true", "false", "oo", "nan", "int_oo", "Infinity", "NegativeInfinity"}
ASSUMPTIONS = {"positive", "negative", "nonnegative", "integer", "real", "finite", "zero"}
VARIABLE = re.compile(r"[a-z][a-z_]{0,8}\d{1,9}|[a-z]", re.ASCII)
SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)
FLOAT = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?|-?inf|nan", re.ASCII)
BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr)
UNARY = (ast.USub, ast.UAdd, ast.Invert)
COMPARE = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_expression(text: str) -> bool:
    """Whether ``text`` is arithmetic on symbols and numbers with a bounded value."""
    if len(text) > LENGTH_LIMIT:
        return False
    try:
        return _is_term(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError):
        return False


def _is_term(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return _is_number(node.value)
        case ast.Name():
            return node.id in CONSTANTS or VARIABLE.fullmatch(node.id) is not None
        case ast.UnaryOp():
            return isinstance(node.op, UNARY) and _is_term(node.operand)
        case ast.BinOp(op=ast.Pow()):
            return _is_power(node.left, node.right)
        case ast.BinOp():
            return isinstance(node.op, BINARY) and _is_term(node.left) and _is_term(node.right)
        case ast.Compare():
            return all(isinstance(op, COMPARE) for op in node.ops) and all(
                _is_term(part) for part in (node.left, *node.comparators)
            )
        case ast.Tuple():
            return all(_is_term(part) for part in node.elts)
        case ast.Call(func=ast.Name()):
            return _is_call(node)
    return False


def _is_call(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    values = [part.value if isinstance(part, ast.Constant) else None for part in node.args]
    keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    first = values[0] if values else None
    if name == "Symbol":
        plain = all(word in ASSUMPTIONS and type(keywords[word]) is bool for word in keywords)
        return plain and len(values) == 1 and _matches(SYMBOL, first)
    if name == "Float":
        precise = all(
            word in ("precision", "dps") and type(value) is int and 0 < value <= 200
            for word, value in keywords.items()
        )
        return precise and len(values) == 1 and (_matches(FLOAT, first) or _is_number(first))
    if keywords:
        return False
    if name in ("Integer", "Rational"):
        return 0 < len(node.args) <= 2 and all(_integer(part) is not None for part in node.args)
    if name in POWERS:
        return len(node.args) == 2 and _is_power(*node.args)
    is_function = name in FUNCTIONS or (name in CONSTANTS and not node.args)
    return is_function and all(_is_term(part) for part in node.args)


def _is_power(base: ast.expr, exponent: ast.expr) -> bool:
    """Whether the base has a symbol and no other power, and the exponent is a small number."""
    size = _value(exponent)
    if size is None or abs(size) > EXPONENT_LIMIT or not _is_term(base):
        return False
    inside = list(ast.walk(base))
    calls = {part.func.id for part in inside if _is_named_call(part)}  # type: ignore[attr-defined]
    names = {part.id for part in inside if isinstance(part, ast.Name)}
    symbolic = "Symbol" in calls or any(VARIABLE.fullmatch(name) for name in names)
    return symbolic and not calls & POWERS and not any(isinstance(p, ast.Pow) for p in inside)


def _is_named_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _value(node: ast.expr) -> float | None:
    """The number that a node represents; None if it is not a plain number."""
    if isinstance(node, ast.Call) and _is_named_call(node) and _is_call(node):
        name = node.func.id  # type: ignore[attr-defined]
        if name == "Float" and isinstance(node.args[0], ast.Constant):
            return float(str(node.args[0].value))
        if name in ("Integer", "Rational"):
            parts = [_integer(part) or 0 for part in node.args]
            return float(parts[0]) if len(parts) == 1 or not parts[1] else parts[0] / parts[1]
        return None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and _is_number(node.value):
        return float(node.value)  # type: ignore[arg-type]
    return None


def _integer(node: ast.expr) -> int | None:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    value = inner.value if isinstance(inner, ast.Constant) else None
    if type(value) is not int or abs(value) >= INTEGER_LIMIT:
        return None
    return -value if negative else value


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return True
    return isinstance(value, int | float) and abs(value) < INTEGER_LIMIT


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
