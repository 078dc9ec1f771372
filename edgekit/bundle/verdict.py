"""verdict.json: the budgets, predictions and measurements of a build. It is not deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator

from edgekit.budget import BudgetName, Figure, Figures, Limits, judge, verdict_of
from edgekit.bundle.manifest import VERDICT, Manifest, read_manifest, seal, unseal
from edgekit.cache import write_atomically
from edgekit.documents.environment import MeasuredEnvironment
from edgekit.documents.latency import LatencyParts
from edgekit.documents.measure import Parity
from edgekit.documents.memory import MemoryLedger
from edgekit.documents.runtimes import RuntimeCandidate
from edgekit.documents.search import SearchReport
from edgekit.documents.verdict import (
    Accuracy,
    Blame,
    CompressionStep,
    Judge,
    Relaxation,
    Rung,
    VerdictDocument,
)
from edgekit.errors import BundleError
from edgekit.frozen import Frozen, Omitted

VERDICT_SCHEMA: Literal["edgekit.verdict/1"] = "edgekit.verdict/1"


class Record(Frozen):
    """The results of a build.

    ``manifest``: the digest of the bundle's manifest. ``limits``: the budgets at build time, each
    with its source. ``missing``: why a figure is unknown. ``inferences``: how many ``evaluate``
    of the recipe runs. ``memory``: the ledger; None in bundles of older versions. ``latency``: by
    operator; None if it was not predicted. ``search``: None if the build did not search;
    ``relaxations``: if nothing fits after that. ``runtimes``: of a build for all of them.
    """

    schema_: Literal["edgekit.verdict/1"] = Field(default=VERDICT_SCHEMA, alias="schema")
    manifest: str
    recipe: str
    recipe_sha256: str
    device: str | None
    limits: Limits
    figures: Figures
    missing: dict[BudgetName, str]
    accuracy: Accuracy
    fp32_judged_by: Judge = "torch"
    parity: Parity | None
    inferences: int = 0
    ladder: tuple[Rung, ...]
    blame: tuple[Blame, ...] = ()
    compression: tuple[CompressionStep, ...] = ()
    environment: MeasuredEnvironment | None = None
    memory: Omitted[MemoryLedger | None] = None
    latency: Omitted[LatencyParts | None] = None
    search: Omitted[SearchReport | None] = None
    relaxations: Omitted[tuple[Relaxation, ...] | None] = None
    runtimes: Omitted[tuple[RuntimeCandidate, ...] | None] = None
    seconds: dict[str, float]

    @field_validator("environment", mode="before")
    @classmethod
    def _none_where_empty(cls, value: Any) -> Any:
        return value or None

    @field_serializer("environment")
    def _empty_where_none(self, value: MeasuredEnvironment | None) -> dict[str, Any]:
        return value.model_dump(mode="json") if value is not None else {}

    def to_bytes(self) -> bytes:
        return seal(self.model_dump(mode="json"))


def read_record(bundle: Path, manifest_digest: str) -> Record:
    """Read a bundle's verdict.json. Raises BundleError if damaged or of another bundle."""
    path = bundle / VERDICT
    try:
        record = Record.model_validate(unseal(path, VERDICT_SCHEMA))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path} is not valid: {key}: {first['msg']}") from None
    if record.manifest != manifest_digest:
        raise BundleError(
            f"{path} belongs to another bundle than the manifest in the same folder",
            "build or copy the bundle again",
        )
    return record


def amend_record(bundle: Path, **values: Any) -> None:
    """Replace values in a bundle's verdict.json. Raises BundleError."""
    record = read_record(bundle, read_manifest(bundle).digest).replaced(**values)
    write_atomically(bundle / VERDICT, record.to_bytes())


def peak_of(record: Record) -> float | None:
    figure = record.figures.get("peak_memory_mb")
    return figure.value if figure else None


def verdict_document(
    schema: str, folder: Path, manifest: Manifest, record: Record, limits: Limits
) -> VerdictDocument:
    """Judge the record's figures and the manifest's size by ``limits``."""
    lines = judge(limits, figures_of(manifest, record), record.missing)
    return VerdictDocument(
        schema_=schema,
        bundle=str(folder),
        target=manifest.target,
        runtime=manifest.runtime.name,
        verdict=verdict_of(lines),
        budgets=tuple(lines),
        accuracy=record.accuracy,
        fp32_judged_by=record.fp32_judged_by,
        parity=record.parity,
        plan=manifest.plan,
        ladder=record.ladder,
        blame=record.blame,
        compression=record.compression,
        program=manifest.program.summary(),
        memory=record.memory,
        latency=record.latency,
        search=record.search,
        relaxations=record.relaxations or (),
        runtimes=record.runtimes or (),
        seconds=record.seconds,
    )


def figures_of(manifest: Manifest, record: Record) -> Figures:
    size: dict[BudgetName, Figure] = {
        "size_mb": Figure(value=manifest.size_mb, source="measured"),
    }
    return record.figures | size
