"""What an error inside torch or a runtime is about: its deepest cause, the operator, the layer and
the user's line.

torch and the runtimes wrap an error several times, and the outermost text ("An error occurred when
running the ... pass") says least. The operator stands in the frames of the traceback, as the graph's
node that was being worked on, with the layer and the line that it came from.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_CHARACTERS = 300
# Texts that report an error of somewhere else; what they were raised in is the cause.
WRAPPERS = re.compile(
    r"An error occurred when running|Failed (converting|to lower)|While executing"
)
# What torch and fx append to a message: the graph, the node, traces.
APPENDED = re.compile(
    r"\n\s*(While executing |GraphModule: |Original traceback|User Stack|def forward\(|"
    r"The following call raised|Potential framework code|For more information, run with|"
    r"Please file an issue|The error above occurred)"
)
SEE_ALSO = re.compile(r"\s*\(?https?://\S+|\s*Please file an issue\S*.*|\s*For more information.*")
# Where a text names an operator.
NAMED = (
    re.compile(r"call_function\[target=(?:[\w.]*\b_?ops\.)?([\w.]+?)\]"),
    re.compile(r"Operator (?:torch\._ops\.)?([\w.]+) is not"),
    re.compile(r"Missing out variants?: \{?'?([\w:.]+)"),
    re.compile(r"OperatorMissing \(0x14\): ([\w:.]+)"),
    re.compile(r"Operator ([\w.:]+)\("),
)
FRAME = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+), in .+\n\s*(?P<code>.+)')
LIBRARIES = re.compile(r"/(torch|executorch|torchao)/")


@dataclass(frozen=True)
class Cause:
    """``error`` is the deepest one; ``said`` its kind and what it says first. ``operator``
    (aten.prelu), ``layer`` ('' the model itself) and ``line`` (file:line: code) where they are
    known.
    """

    error: BaseException
    said: str
    operator: str | None = None
    layer: str | None = None
    line: str | None = None

    @property
    def where(self) -> str:
        """' in aten.prelu of layer a.b (net.py:3: ...)', as far as known; '' where nothing is."""
        return place(self.operator, self.layer, self.line)


def find_cause(error: BaseException, graph: torch.fx.Graph | None = None) -> Cause:
    """``graph``: the one that was worked on, to find there the operator that a text names."""
    chain = list(chain_of(error))
    deepest = chain[-1]
    node = next((found for each in reversed(chain) if (found := _node(each))), None)
    operator = name_of(node) if node is not None else _named(chain)
    if node is None and operator is not None:
        node = next((found for found in _graphs(chain, graph) if name_of(found) == operator), None)
    line = line_of(node) if node is not None else _last_line(str(deepest))
    return Cause(deepest, said(deepest), operator, layer_of(node), line)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on to the deepest cause.

    What an error was raised beside (its context) counts only for one that says itself to be a
    wrapper: elsewhere it is a lookup that failed on the way to something better to say.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        beside = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or (beside if WRAPPERS.match(str(current)) else None)


def said(error: BaseException) -> str:
    """Its kind and its first sentence, without the graphs and traces that torch appends.

    A first line that announces a list ("...:") is given with the list's beginning, an error
    without text with the line that raised it.
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


def place(operator: str | None, layer: str | None, line: str | None) -> str:
    """Operator, layer and line as a part of a sentence that begins with a space, or ''."""
    parts = [f" in {operator}" if operator else ""]
    if layer is not None:
        parts.append(f" of layer {layer}" if layer else " of the model itself")
    parts.append(f" ({line})" if line else "")
    return "".join(parts)


def name_of(node: torch.fx.Node) -> str:
    """aten.prelu, mine.double; the function's own name where it is no operator."""
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(schema.name).replace("::", ".")
    return str(getattr(target, "__name__", target))


def layer_of(node: torch.fx.Node | None) -> str | None:
    """The module's name in the user's model, '' for the model itself, None where unknown."""
    stack = node.meta.get("nn_module_stack") if node is not None else None
    names = [str(value[0]) for value in (stack or {}).values()]
    return names[-1] if names else None


def line_of(node: torch.fx.Node) -> str | None:
    return _last_line(str(node.meta.get("stack_trace")))


def _last_line(trace: str) -> str | None:
    """The last line of a trace that is not the libraries' own."""
    own = [match for match in FRAME.finditer(trace) if not LIBRARIES.search(match["file"])]
    return f"{own[-1]['file']}:{own[-1]['line']}: {own[-1]['code']}" if own else None


def _raised_at(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
        if frames
        else None
    )


def _node(error: BaseException) -> torch.fx.Node | None:
    """The operator that was being worked on, from the deepest frame that has one."""
    import torch

    for frame in _frames(error):
        for name in ("node", "n"):
            value = frame.f_locals.get(name)
            if isinstance(value, torch.fx.Node) and value.op == "call_function":
                return value
    return None


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _named(chain: list[BaseException]) -> str | None:
    for error in reversed(chain):
        for pattern in NAMED:
            if found := pattern.search(str(error)):
                return ".".join(found[1].replace("::", ".").split(".")[:2])
    return None


def _graphs(chain: list[BaseException], graph: torch.fx.Graph | None) -> Iterator[torch.fx.Node]:
    """The operators of the user's graph, then of every graph that was at work."""
    import torch

    if graph is not None:
        yield from (node for node in graph.nodes if node.op == "call_function")
    for error in reversed(chain):
        for frame in _frames(error):
            for value in frame.f_locals.values():
                if isinstance(value, torch.fx.GraphModule):
                    yield from (n for n in value.graph.nodes if n.op == "call_function")
