"""The cause of an error inside torch or a runtime: the operator, the layer and the user's line.

torch and the runtimes wrap an error several times, and the outermost message ("An error occurred
when running the ... pass") is the least specific. The traceback's frames contain the graph's node
that was being processed, and the node has its layer and source line.
"""

from __future__ import annotations

import operator
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from edgekit.compress.graph import module_of
from edgekit.errors import chain_of

MOST_CHARACTERS = 300
# Text that torch and fx append to a message: the graph, the node, traces.
APPENDED = re.compile(
    r"\n\s*(While executing |GraphModule: |Original traceback|User Stack|def forward\(|"
    r"The following call raised|Potential framework code|For more information, run with|"
    r"Please file an issue|The error above occurred)"
)
SEE_ALSO = re.compile(r"\s*\(?https?://\S+|\s*Please file an issue\S*.*|\s*For more information.*")
# Patterns for the name of an operator.
NAMED = (
    re.compile(r"call_function\[target=(?:[\w.]*\b_?ops\.)?([\w.]+?)\]"),
    re.compile(r"Operator (?:torch\._ops\.)?([\w.]+) is not"),
    re.compile(r"Missing out variants?: \{?'?([\w:.]+)"),
    re.compile(r"OperatorMissing \(0x14\): ([\w:.]+)"),
    re.compile(r"Operator ([\w.:]+)\("),
)
# Pattern for the name of a constant of the graph.
CONSTANT = re.compile(r"model attribute: (\w+)")
FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in .+\n\s*(?P<code>.+)')
# Generated code, such as <eval_with_key>.5, is no line of the user's either.
LIBRARIES = re.compile(r"^<|/(torch|executorch|torchao)/")


@dataclass(frozen=True)
class Cause:
    """The cause of an error. ``error``: the innermost one. ``summary``: its class and first
    sentence. ``operator`` (aten.prelu), ``layer`` ('' for the model itself) and ``line``
    (file:line: code): None if unknown.
    """

    error: BaseException
    summary: str
    operator: str | None = None
    layer: str | None = None
    line: str | None = None

    @property
    def where(self) -> str:
        """' in aten.prelu of layer a.b (net.py:3: ...)' with the known parts; '' if none is."""
        return location_text(self.operator, self.layer, self.line)


def find_cause(error: BaseException, graph: torch.fx.Graph | None = None) -> Cause:
    """Find the cause of ``error``. ``graph``: the graph being processed, to search for an operator
    that a message names.
    """
    chain = list(chain_of(error))
    deepest = chain[-1]
    node = next((node for each in reversed(chain) if (node := _node(each))), None)
    name = name_of(node) if node is not None else _named(chain)
    if node is None:
        nodes = _graphs(chain, graph)
        node = next((node for node in nodes if _is_meant(node, name, str(deepest))), None)
        name = name_of(node) if node is not None else name
    line = line_of(node) if node is not None else _last_line(str(deepest))
    layer = module_of(node) if node is not None else None
    return Cause(deepest, summary(deepest), name, layer, line)


def summary(error: BaseException) -> str:
    """The error's class and first sentence, without the graphs and traces that torch appends.

    A first line that introduces a list ("...:") is joined with the start of the list. For an error
    without text, the line that raised it is added.
    """
    kind = type(error).__name__
    text = APPENDED.split(str(error), maxsplit=1)[0]
    lines = [
        line for line in (SEE_ALSO.sub("", each).strip() for each in text.splitlines()) if line
    ]
    if not lines or lines == ["[]"]:
        at = _raised_at(error)
        return f"{kind} at {at}" if at else kind
    first = lines.pop(0)
    while lines and first.endswith((":", "(", "[", "{", ",")):
        first = f"{first} {lines.pop(0)}"
    return f"{kind}: {first[:MOST_CHARACTERS]}"


def location_text(operator: str | None, layer: str | None, line: str | None) -> str:
    """Operator, layer and line as part of a sentence, with a leading space; '' if all are None."""
    names = [operator, f"layer {layer}" if layer else None]
    within = " of ".join(name for name in names if name)
    return (f" in {within}" if within else "") + (f" ({line})" if line else "")


def name_of(node: torch.fx.Node) -> str:
    """The operator's name (aten.prelu, mine.double), or the name of a function that is not an
    operator. An item of several results has the name of the operator that returns them.
    """
    target: Any = node.target
    if target is operator.getitem and isinstance(node.args[0], torch.fx.Node):
        return name_of(node.args[0])
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(schema.name).replace("::", ".")
    return str(getattr(target, "__name__", target))


def line_of(node: torch.fx.Node) -> str | None:
    return _last_line(str(node.meta.get("stack_trace")))


def first_line(model: torch.nn.Module, is_meant: Callable[[torch.fx.Node], bool]) -> str | None:
    """The user's line of the first such node of a traced model; None for any other model."""
    graph = getattr(model, "graph", None)
    nodes = graph.nodes if isinstance(graph, torch.fx.Graph) else ()
    return next((line_of(node) for node in nodes if is_meant(node)), None)


def _last_line(trace: str) -> str | None:
    """The last line of a trace outside the libraries."""
    frames = [match for match in FRAME.finditer(trace) if not LIBRARIES.search(match["file"])]
    last = frames[-1] if frames else None
    return f"{last['file']}:{last['line']}: {last['code']}" if last else None


def _raised_at(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
        if frames
        else None
    )


def _node(error: BaseException) -> torch.fx.Node | None:
    """The operator being processed, from the innermost frame that has one; for a constant, the
    first operator that reads it.
    """
    for frame in frames_of(error):
        for name in ("node", "n"):
            value = frame.f_locals.get(name)
            if isinstance(value, torch.fx.Node) and value.op == "get_attr":
                value = next(iter(value.users), None)
            if isinstance(value, torch.fx.Node) and value.op == "call_function":
                return value
    return None


def frames_of(error: BaseException) -> list[FrameType]:
    """The frames of an error's traceback, innermost first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _named(chain: list[BaseException]) -> str | None:
    for error in reversed(chain):
        for pattern in NAMED:
            if match := pattern.search(str(error)):
                return ".".join(match[1].replace("::", ".").split(".")[:2])
    return None


def _is_meant(node: torch.fx.Node, name: str | None, text: str) -> bool:
    """Whether a message means this node: by the operator's name, or by a constant that it reads."""
    if name is not None:
        return name_of(node) == name
    constant = CONSTANT.search(text)
    if constant is None or line_of(node) is None:
        return False
    return f"c_{constant[1]}" in {str(source) for source in node.all_input_nodes}


def _graphs(chain: list[BaseException], graph: torch.fx.Graph | None) -> Iterator[torch.fx.Node]:
    """The operators of ``graph``, then of all graphs in the tracebacks' frames."""
    if graph is not None:
        yield from (node for node in graph.nodes if node.op == "call_function")
    for error in reversed(chain):
        for frame in frames_of(error):
            for held in frame.f_locals.values():
                value = getattr(getattr(held, "aten", None), "gm", held)  # torch.export's own
                if isinstance(value, torch.fx.GraphModule):
                    yield from _calls(value)


def _calls(graph: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    """The operators of a graph and of its subgraphs."""
    for module in graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")
