"""A file with several signatures: the chosen one alone.

The native runner runs the first signature, tflite-runtime the first graph. So the chosen signature
becomes the only one, and its graph the first. What only the others use is removed, because the
whole file stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from edgekit.errors import RuntimeFailure, unknown
from edgekit.runtimes.base import Selected
from edgekit.runtimes.litert.edits.corrections import edited
from edgekit.runtimes.litert.flatbuffer import DAMAGED, IDENTIFIER, damaged, text_of

# The converters' name for the signature that is meant if none is named.
DEFAULT = "serving_default"


def select(data: bytes, name: str | None) -> Selected:
    """The file with one signature: ``name``, or the default one.

    A file that has only one is unchanged. Raises RuntimeFailure: there is no such signature, none
    is named and there is no default, or the file is damaged.
    """
    try:
        known = _signatures(data)
        if name is None and len(known) < 2:
            return Selected(data)
        chosen = _chosen(known, name)
        if len(known) == 1:
            return Selected(data)
        alone = edited(data, partial(_keep, chosen))
    except DAMAGED as error:
        raise damaged(error) from error
    others = ", ".join(one for one in known if one != chosen)
    return Selected(alone, f"signature {chosen}, without {others}")


def _signatures(data: bytes) -> list[str]:
    """The names of a file's signatures; none for what is no .tflite file."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != IDENTIFIER:
        return []
    model = schema.Model.GetRootAs(data, 0)
    keys = (model.SignatureDefs(i).SignatureKey() for i in range(model.SignatureDefsLength()))
    return [_name(key) for key in keys]


def _name(key: Any) -> str:
    """A signature's name, which reaches the terminal: without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text_of(key))


def _chosen(known: Sequence[str], name: str | None) -> str:
    wanted = DEFAULT if name is None else name
    if known.count(wanted) == 1:
        return wanted
    listed = f"the file's signatures: {', '.join(known) or 'none'}"
    if name is None:
        raise RuntimeFailure(
            f"the file has {len(known)} signatures, and none is named {DEFAULT}",
            f"choose one with --signature; {listed}",
        )
    if name in known:
        raise RuntimeFailure(f"{known.count(name)} signatures are named {name}", listed)
    raise RuntimeFailure(unknown("signature", name, known), listed)


def _keep(name: str, model: Any) -> bool:
    """Remove the other signatures, and what only they use. Always changes the model."""
    chosen = next(one for one in model.signatureDefs if _name(one.signatureKey) == name)
    numbers = _reached(model, int(chosen.subgraphIndex))
    model.subgraphs = [model.subgraphs[number] for number in numbers]
    chosen.subgraphIndex, model.signatureDefs = 0, [chosen]
    operators = [one for graph in model.subgraphs for one in graph.operators or []]
    for operator in operators:
        for options, field in _references(operator):
            setattr(options, field, numbers.index(getattr(options, field)))
    _drop_kinds(model, operators)
    _drop_constants(model)
    return True


def _reached(model: Any, first: int) -> list[int]:
    """The numbers of a graph and of those that its operators refer to."""
    found = [first]
    for number in found:  # grows while it is read
        for operator in model.subgraphs[number].operators or []:
            for options, field in _references(operator):
                if getattr(options, field) not in found:
                    found.append(getattr(options, field))
    return found


def _references(operator: Any) -> Iterator[tuple[Any, str]]:
    """The fields of an operator's options that are numbers of graphs."""
    for options in (operator.builtinOptions, operator.builtinOptions2):
        for field in vars(options) if options is not None else ():
            if (field == "subgraph" or field.endswith("SubgraphIndex")) and (
                getattr(options, field) >= 0
            ):
                yield options, field


def _drop_kinds(model: Any, operators: Sequence[Any]) -> None:
    """Without kinds of operators that are not used: a runtime refuses a file with one it lacks."""
    used = sorted({one.opcodeIndex for one in operators})
    model.operatorCodes = [model.operatorCodes[number] for number in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def _drop_constants(model: Any) -> None:
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    used = {int(one.buffer) for one in (*tensors, *(model.metadata or []))}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
