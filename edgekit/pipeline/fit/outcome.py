"""The end of a search: the better of two bundles stays, with the record of the search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgekit.budget import BudgetLine, BudgetName, round_up
from edgekit.bundle.verdict import amend_record
from edgekit.bundle.write import publish
from edgekit.documents.search import SearchReport
from edgekit.documents.verdict import Relaxation, VerdictDocument


def outcome(
    folder: Path,
    document: VerdictDocument,
    draft: Path,
    rival: VerdictDocument,
    report: SearchReport,
) -> VerdictDocument:
    """``draft``, the bundle of ``rival``, replaces that in ``folder`` if it is better."""
    own, other = (
        (*budget_rank(one), value_of(one, "accuracy_drop") or 0.0) for one in (rival, document)
    )
    is_better = own < other
    report = report.replaced(
        points=tuple(
            point.replaced(accuracy_drop=value_of(rival, "accuracy_drop")) if point.kept else point
            for point in report.points
        ),
        end=report.end
        if is_better
        else f"{report.end}; the first bundle is nearer to them and stays",
    )
    if not is_better:
        return with_search(folder, document, report, relaxed([rival]))
    moved = rival.replaced(bundle=document.bundle)
    moved = with_search(draft, moved, report, relaxed([document]))
    publish(draft, folder)
    return moved


def with_search(
    folder: Path,
    document: VerdictDocument,
    report: SearchReport,
    relaxations: Sequence[Relaxation],
) -> VerdictDocument:
    """Add the search to the bundle's verdict.json and to the document."""
    found = (*relaxed([document]), *relaxations) if document.verdict != "fits" else ()
    amend_record(folder, search=report, relaxations=found or None)
    return document.replaced(search=report, relaxations=found)


def relaxed(documents: Iterable[VerdictDocument]) -> tuple[Relaxation, ...]:
    """The limits with which each bundle would fit; it was built, so they are verified."""
    found: dict[tuple[BudgetName, ...], Relaxation] = {}
    for document in documents:
        open_lines = [line for line in document.budgets if line.status in ("missed", "unknown")]
        if not open_lines or any(line.value is None for line in open_lines):
            continue
        budgets = {line.name: _enough(line) for line in open_lines}
        key = tuple(budgets)
        best = found.get(key)
        if best is None or all(budgets[name] <= best.budgets[name] for name in key):
            found[key] = Relaxation(budgets=budgets, verified=True)
    return tuple(found.values())


def _enough(line: BudgetLine) -> float:
    """The least limit that the whole interval meets."""
    assert line.value is not None
    return round_up(line.interval[1] if line.interval is not None else line.value)


def budget_rank(document: VerdictDocument) -> tuple[int, int, float]:
    """Fewer missed budgets first, then fewer unknown ones, then less above the limits."""
    statuses = [line.status for line in document.budgets]
    excess = sum(
        max(0.0, line.value / line.limit - 1)
        for line in document.budgets
        if line.limit and line.value is not None
    )
    return statuses.count("missed"), statuses.count("unknown"), excess


def line_of(document: VerdictDocument, name: BudgetName) -> BudgetLine:
    return next(line for line in document.budgets if line.name == name)


def value_of(document: VerdictDocument, name: BudgetName) -> float | None:
    return line_of(document, name).value
