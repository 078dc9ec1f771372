"""Checks of an exported program's JSON: only torch's schema, and no text that torch would run.

torch writes names from the file into Python source that it executes, evaluates expressions with
sympy, looks up operators and imports modules by name. Therefore every value is rebuilt field by
field from torch's own schema (torch/_export/serde/schema.py), and every text has a rule.
"""

from __future__ import annotations

import functools
import json
import keyword
import re
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

from edgekit.exported.expression import EXPONENT_LIMIT, INTEGER_LIMIT, is_expression


class RefusedError(Exception):
    """The file contains more than data; the text says what."""


ARITHMETIC = frozenset(
    f"_operator.{name}"
    for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "getitem",
        "lshift", "rshift", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_",
    )
) | {"math.ceil", "math.floor", "math.trunc"}  # fmt: skip
GROWS = {"_operator.pow", "_operator.lshift"}
SYMBOLIC = re.compile(r"torch\.(sym_(float|int|ite|max|min|not|sqrt|sum)|_sym_\w+)")
REGISTERED = re.compile(r"torch\.ops\.(aten|prims|quantized_decomposed|torchao)\.(\w+)\.(\w+)")
# Python's & | ^ << >> on tensors, also in place; no other name between underscores is allowed.
DUNDER = re.compile(r"__(i?(and|or|xor|lshift|rshift))__")
# The calls of torch.vmap in a graph: open a level, move tensors in and out, close it.
VMAP = "torch._functorch.predispatch."
OPENS, CLOSES = f"{VMAP}_vmap_increment_nesting", f"{VMAP}_vmap_decrement_nesting"
BATCHING = frozenset(
    (OPENS, CLOSES, f"{VMAP}_add_batch_dim", f"{VMAP}_remove_batch_dim",
     f"{VMAP}lazy_load_decompositions")
)  # fmt: skip
CONTROL = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in (
        "associative_scan", "cond", "map_impl", "scan", "while_loop",
        "wrap_with_autocast", "wrap_with_set_grad_enabled",
    )
)  # fmt: skip

# torch writes these texts into source, unquoted or between quotes.
DOTTED = re.compile(r"[\w\-@]*(\.[\w\-@]+)*")
PAYLOAD = re.compile(r"(weight|tensor)_\d+")
# Names of torch's TorchScript converter for the list of outputs.
IMMUTABLE = {
    "torch.fx.immutable_collections.immutable_list": "builtins.list",
    "torch.fx.immutable_collections.immutable_dict": "builtins.dict",
}
CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def clean_program(document: Any) -> Any:
    """The exported program with only the fields of torch's schema. Raises RefusedError.

    Guards are removed: they are Python source, and the built program checks its inputs.
    """
    from torch._export.serde import schema

    program = _clean(document, schema.ExportedProgram, "")
    program["guards_code"] = []
    return program


def clean_payload(document: Any) -> Any:
    """The list of stored tensors. Raises RefusedError: one is a pickled object."""
    from torch._export.serde import schema

    config = _clean(document, schema.PayloadConfig, "")
    for name, stored in config["config"].items():
        if stored.get("use_pickle") or not PAYLOAD.fullmatch(stored["path_name"]):
            raise RefusedError(f"it holds a pickled object ({name[:80]})")
    return config


def _clean(value: Any, kind: Any, place: str) -> Any:
    """A checked copy of ``value``. ``place``: its field, which decides the rule of a text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _clean(value, arguments[0], place)
    if origin is list and isinstance(value, list):
        return [_clean(item, arguments[0], place) for item in value]
    if origin is dict and isinstance(value, dict):
        for key in value:
            _check_text(key, f"{place} key")
        return {key: _clean(item, arguments[1], place) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _clean_record(value, kind)
    if kind is str and isinstance(value, str):
        _check_text(value, place)
        return value
    if _is_number(value, kind):
        return value
    raise RefusedError(f"its {place or 'content'} does not match torch's format ({value!r:.80})")


def _clean_record(record: dict[str, Any], kind: Any) -> dict[str, Any]:
    hints = _fields(kind)
    if issubclass(kind, _union()) and (len(record) != 1 or not hints.keys() >= record.keys()):
        raise RefusedError(
            f"its {kind.__name__} does not match torch's format ({', '.join(record)[:80]})"
        )
    name = kind.__name__
    cleaned = {}
    for key in [key for key in hints if key in record]:
        place = "argument" if (name, key) == ("NamedArgument", "name") else key
        cleaned[key] = _clean(record[key], hints[key], place)
    if name == "Node":
        _check_growth(cleaned)
    if name == "Graph":
        _check_nesting(cleaned["nodes"])
    if name == "ModuleCallSignature":
        cleaned |= {
            key: _plain_tree(cleaned[key]) for key in ("in_spec", "out_spec") if key in cleaned
        }
    return cleaned


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    from torch._export.serde import schema

    hints = typing.get_type_hints(kind, globalns=vars(schema))
    return {field.name: hints[field.name] for field in fields(kind)}


@functools.cache
def _union() -> type:
    from torch._export.serde.union import _Union

    return _Union


def _is_number(value: Any, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:  # JSON has no infinity, so torch writes a string
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number or value in ("Infinity", "-Infinity", "NaN")
    whole = type(value) is int and abs(value) < INTEGER_LIMIT
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return whole and value in set(kind)
    return kind is int and whole


def _check_text(text: Any, place: str) -> None:
    rule = RULES.get(place)
    if rule is None:
        raise RefusedError(f"edgekit does not know its field {place}")
    allowed, reason = rule
    if not isinstance(text, str) or not allowed(text):
        raise RefusedError(reason.format(repr(text)[:80]))


def _check_growth(node: dict[str, Any]) -> None:
    """Refuse a power or shift of a plain number, or by a variable: its size is unbounded."""
    if node.get("target") not in GROWS:
        return
    numbers = [_number(argument.get("arg")) for argument in node.get("inputs", ())]
    if len(numbers) != 2 or numbers[0] is not None or not _is_small(numbers[1]):
        raise RefusedError(f"its {node['target']} can grow without bound")


def _check_nesting(nodes: list[dict[str, Any]]) -> None:
    """Refuse unbalanced vmap levels: an open one would affect later computations."""
    depth = 0
    for node in nodes:
        depth += (node["target"] == OPENS) - (node["target"] == CLOSES)
        if depth < 0:
            break
    if depth:
        raise RefusedError("it opens a level of vmap without closing it, or closes one too many")


def _number(argument: Any) -> Any:
    value = next(iter(argument.values())) if argument else None
    if isinstance(value, dict):
        value = next((value[key] for key in ("as_int", "as_float") if key in value), None)
    return value if isinstance(value, int | float) else None


def _is_small(number: Any) -> bool:
    return number is not None and abs(number) <= EXPONENT_LIMIT


def is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _is_operator(target: str) -> bool:
    if target in ARITHMETIC | CONTROL | BATCHING or SYMBOLIC.fullmatch(target):
        return True
    match = REGISTERED.fullmatch(target)
    return match is not None and _takes_no_file(*match.groups())


def _takes_no_file(space: str, name: str, overload: str) -> bool:
    """Whether it is a registered operator, not an attribute of one, and opens no files."""
    import torch

    if "__" in overload or ("__" in name and not DUNDER.fullmatch(name)):
        return False
    operator = getattr(getattr(getattr(torch.ops, space), name, None), overload, None)
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    return not any("file" in argument.name for argument in operator._schema.arguments)


def _plain_tree(text: str) -> str:
    """A pytree's JSON with plain containers only, because torch imports other types by name.

    A class whose context is the list of its keys (such as a transformers model's output) becomes a
    dict. Raises RefusedError.
    """
    try:
        protocol, root = json.loads(text)
        if type(protocol) is int:
            return json.dumps([protocol, _plain_spec(root)])
    except (ValueError, TypeError, KeyError):
        pass
    raise RefusedError(
        f"its inputs or outputs are not plain tuples, lists and dicts: {text!r:.200}"
    )


def _plain_spec(spec: Any) -> dict[str, Any]:
    """A checked spec. Raises ValueError, TypeError or KeyError for any other type."""
    children = [_plain_spec(child) for child in spec["children_spec"]]
    kind, context = IMMUTABLE.get(spec["type"], spec["type"]), spec["context"]
    if kind is None and context is None and not children:
        return {"type": None, "context": None, "children_spec": []}
    keys = json.loads(context)
    is_list = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
    if kind not in CONTAINERS:
        if not is_list or len(keys) != len(children):
            raise ValueError(kind)
        kind = "builtins.dict"
    elif keys is not None and not is_list:
        raise ValueError(context)
    return {"type": kind, "context": json.dumps(keys), "children_spec": children}


def _rules() -> dict[str, tuple[Callable[[str], bool], str]]:
    name = is_name, "it has a name that is not a plain identifier: {}"
    dotted = (lambda text: DOTTED.fullmatch(text) is not None), name[1]
    operator = _is_operator, "it calls {}, which is not an operator that edgekit allows"
    free = (lambda _: True), ""  # torch only stores it, or writes it with its quotes escaped
    values = [f"{kind}_values key" for kind in ("tensor", "sym_int", "sym_bool", "sym_float")]
    groups = [
        (name, ["name", "as_name", "forward_arg_names", "type", "range_constraints key", *values]),
        # an operator's argument may be named `from`; a control operator's argument has no name
        ((lambda text: not text or text.isidentifier(), name[1]), ["argument"]),
        (dotted, ["parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"]),
        (dotted, ["fqn", "config key", "path_name", "as_string_to_argument key"]),
        (operator, ["target", "as_operator"]),
        (free, ["in_spec", "out_spec"]),  # rebuilt by _plain_tree
        ((is_expression, "it has an expression that is not simple arithmetic: {}"), ["expr_str"]),
        (free, ["as_string", "as_strings", "metadata", "metadata key", "opset_version key"]),
        (free, ["verifiers", "torch_version", "guards_code", "field_names"]),
        (free, ["treespec_namedtuple_fields key"]),
        (
            (lambda _: False, "it holds a pickled object ({})"),
            ["class_fqn", "custom_obj_name", "custom_obj_values key"],
        ),
    ]
    return {place: rule for rule, places in groups for place in places}


RULES = _rules()
