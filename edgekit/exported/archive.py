"""Is a .pt2 file whole, of a version that this torch reads, and nothing but data?

Reading one the way torch does runs what the file says in more than one place: pickles, names of
functions that are looked up and called, expressions that sympy evaluates, compiled libraries. A
model that somebody else exported is data here: what is none is refused before torch sees it.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError

# torch's own layout: torch/export/pt2_archive/constants.py; before 2.8 the graph lay beside.
GRAPH = re.compile(r"([^/]+/models/[^/]+|serialized_exported_program)\.json")
CONSTANTS = re.compile(r"[^/]+/data/constants/[^/]+_constants_config\.json")
COMPILED = "/data/aotinductor/"
OBJECTS = ("custom_obj_", "opaque_obj_")

OPERATOR = re.compile(r"torch\.ops\.[A-Za-z]\w*(\.\w+){1,2}|torch\._?sym_\w+|math\.\w+|#.*")
ARITHMETIC = frozenset(
    f"_operator.{name}"
    for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "getitem",
        "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_",
    )
)  # fmt: skip
TOUCHES_FILES = ("from_file", "load_library")
EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=&|~!]*")
# An attribute, a name with two underscores, or a call of anything but a function of sympy's.
SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
REACHES_OUT = re.compile(r"__|[A-Za-z_)]\w*\s*\.\s*[A-Za-z_]|\b(?!floor\b|ceiling\b)[a-z_]\w*\s*\(")

# An honest archive stores its tensors as they are.
UNPACKED_LIMIT = 20
SMALL_BYTES = 64_000_000


def check_archive(path: Path) -> None:
    """Raises RecipeError: damaged, of a version that cannot be read, or more than data."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_whole(path, archive)
            graphs = [name for name in archive.namelist() if GRAPH.fullmatch(name)]
            if not graphs:
                raise _damaged(path, "it holds no exported program")
            for name in archive.namelist():
                if COMPILED in name:
                    raise _refused(path, f"it holds compiled code ({name})")
                if CONSTANTS.fullmatch(name):
                    _check_constants(path, _json(path, archive, name))
            for name in graphs:
                graph = _json(path, archive, name)
                _check_version(path, graph)
                _check_graph(path, graph)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    except (RecursionError, MemoryError) as error:
        raise _damaged(path, f"its content is absurd ({type(error).__name__})") from None


def _check_whole(path: Path, archive: zipfile.ZipFile) -> None:
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > UNPACKED_LIMIT * path.stat().st_size + SMALL_BYTES:
        raise _damaged(path, f"it would unpack to {unpacked / 1e6:.0f} MB")
    broken = archive.testzip()
    if broken is not None:
        raise _damaged(path, f"the checksum of {broken} is wrong")


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise _damaged(path, f"{name} is not JSON: {error}") from None


def _check_version(path: Path, graph: Any) -> None:
    import torch
    from torch._export.serde.schema import SCHEMA_VERSION

    version = graph.get("schema_version") if isinstance(graph, dict) else None
    major = version.get("major") if isinstance(version, dict) else None
    if not isinstance(major, int):
        raise _damaged(path, "it does not say of which version it is")
    if major != SCHEMA_VERSION[0]:
        by = graph.get("torch_version")
        raise RecipeError(
            f"{path} was exported by torch {by} in version {major} of the format; torch "
            f"{torch.__version__}, which is installed here, reads version {SCHEMA_VERSION[0]}",
            f"export it again with torch {torch.__version__.split('+')[0]}: "
            "torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')",
        )


def _check_constants(path: Path, config: Any) -> None:
    for key, value in _pairs(config):
        if key == "path_name" and isinstance(value, str) and value.startswith(OBJECTS):
            raise _refused(path, "it holds a pickled object among its constants")


def _check_graph(path: Path, graph: Any) -> None:
    for key, value in _pairs(graph):
        if not isinstance(value, str):
            continue
        if key == "target" and not _is_operator(value):
            raise _refused(path, f"it calls '{value}', which is no operator of torch")
        if key == "expr_str" and not _is_expression(value):
            raise _refused(path, f"it has an expression that is no arithmetic: '{value[:80]}'")
        if "default_factory_module" in value:
            raise _refused(path, "it names a module to import")


def _is_operator(target: str) -> bool:
    if target in ARITHMETIC:
        return True
    plain = OPERATOR.fullmatch(target) is not None and "__" not in target
    return plain and not any(word in target for word in TOUCHES_FILES)


def _is_expression(text: str) -> bool:
    text = SYMBOL.sub("s", text)
    return EXPRESSION.fullmatch(text) is not None and not REACHES_OUT.search(text)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _damaged(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"{path} is no whole exported program: {reason}",
        "is it what torch.export.save wrote, and was it copied to its end? Weights alone (.pt, "
        ".pth) need a recipe: edgekit init",
    )


def _refused(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"{path} is not taken: {reason}; an exported program must be nothing but data",
        "export the model without it, or write a recipe: what a recipe runs is your own code",
    )
