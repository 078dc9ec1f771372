"""The base of all documents: canonical JSON, the base class, the document of an error."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from edgekit.errors import EXIT_DONE, EXIT_INCONCLUSIVE, EXIT_MISSED, EdgekitError
from edgekit.frozen import Extensible
from edgekit.version import __version__

EXIT_OF_VERDICT = {"fits": EXIT_DONE, "missed": EXIT_MISSED, "unknown": EXIT_INCONCLUSIVE}


def canonical_json(data: Any) -> bytes:
    """JSON that is equal for equal data: sorted keys, no spaces, UTF-8, a newline at the end."""
    text = json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


class Document(Extensible):
    """Base of all documents; ``schema`` is written without pydantic's underscore."""

    schema_: str = Field(alias="schema")
    edgekit: str = Field(default_factory=lambda: __version__)

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)


def error_document(error: EdgekitError) -> str:
    """The document of an error, for ``--json``."""
    document = {
        "schema": "edgekit.error/1",
        "edgekit": __version__,
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
