"""The contract's schema knows every key of the documents."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from conftest import ROOT
from pydantic import BaseModel

from edgekit import documents
from edgekit.documents.base import Document
from edgekit.documents.verdict import CheckDocument, VerdictDocument

SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())
for module in pkgutil.iter_modules(documents.__path__):
    importlib.import_module(f"{documents.__name__}.{module.name}")
# A plan is a file of its own, with its own schema number.
OPEN = {"schema", "plan"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of an object: through references, the alternative null, and items."""
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        base = resolved(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
        properties = base.get("properties", {}) | rest.get("properties", {})
        return base | rest | {"properties": properties}
    for word in ("oneOf", "anyOf"):
        if word in schema:
            return resolved(next(one for one in schema[word] if one.get("type") != "null"))
    return resolved(schema["items"]) if "items" in schema else schema


def model_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def missing(model: type[BaseModel], schema: dict[str, Any], path: str) -> Iterator[str]:
    found = resolved(schema)
    known = found.get("properties", {})
    if not known and isinstance(found.get("additionalProperties"), dict):
        found = resolved(found["additionalProperties"])
        known = found.get("properties", {})
    for field, info in model.model_fields.items():
        name = info.alias or field
        if name not in known and name not in OPEN:
            yield f"{path}.{name}"
        elif name not in OPEN and (inner := model_in(info.annotation)) is not None:
            yield from missing(inner, known[name], f"{path}.{name}")


@pytest.mark.parametrize("document", [*Document.__subclasses__(), CheckDocument])
def test_every_key_of_a_document_is_in_the_schema(document) -> None:
    kind = document.__name__.removesuffix("Document").lower()
    kind = "build" if document is VerdictDocument else kind
    assert {"$ref": f"#/$defs/{kind}"} in SCHEMA["oneOf"]
    assert not list(missing(document, SCHEMA["$defs"][kind], kind))
