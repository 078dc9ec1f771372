"""Bundles that benchmarks compare: the arms. Each is kept in a folder, with its JSON beside it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import spread

from edgekit.documents.verdict import VerdictDocument


@dataclass(frozen=True)
class Arms:
    """The bundles in ``folder``, where a benchmark that is started again resumes."""

    folder: Path

    def built(self, name: str, build: Callable[[Path], VerdictDocument]) -> Path:
        """The bundle of an arm, built now or before."""
        bundle = self.folder / name
        if not self._json_of(bundle).exists():
            start = time.monotonic()
            found = build(bundle)
            self._json_of(bundle).write_text(found.to_json())
            took = time.monotonic() - start
            value = self.accuracy(bundle)
            print(f"  {name}: {value:.2f}, {took:.0f} s", file=sys.stderr, flush=True)
        return bundle

    def written(self, name: str, source: str) -> Path:
        """A recipe with this source."""
        path = self.folder / f"{name}.py"
        path.write_text(source)
        return path.absolute()

    def document(self, bundle: Path) -> dict:
        return json.loads(self._json_of(bundle).read_text())

    def accuracy(self, bundle: Path) -> float:
        return self.document(bundle)["accuracy"]["artifact"]

    def accuracies(self, bundles: Sequence[Path]) -> str:
        values = [self.accuracy(bundle) for bundle in bundles]
        return spread(values) if len(values) > 1 else f"{values[0]:.2f}"

    def gains(self, ones: Sequence[Path], others: Sequence[Path]) -> list[float]:
        return [self.accuracy(a) - self.accuracy(b) for a, b in zip(ones, others, strict=True)]

    def _json_of(self, bundle: Path) -> Path:
        return self.folder / f"{bundle.name}.json"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval that ``spread`` prints."""
    return float(spread(list(values)).split("± ")[1].split(" ")[0])
