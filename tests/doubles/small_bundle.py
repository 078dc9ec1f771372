"""A small bundle made by hand: no runtime made it, and none could run it."""

from __future__ import annotations

from pathlib import Path

from edgekit.bundle.manifest import MANIFEST, File, Golden, Manifest, Needs, RuntimeInfo
from edgekit.bundle.verdict import Record
from edgekit.cache import file_digest
from edgekit.documents.verdict import Accuracy
from edgekit.plan import Plan
from edgekit.program import Program

CONTENTS = {"model.pte": b"model", "runner": b"\x7fELF", "lib/liba.so": b"library"}
ROLES = {"model.pte": "model", "runner": "runner", "lib/liba.so": "library"}


def fill(folder: Path, name: str = "tiny", **contents: bytes) -> Manifest:
    """Write the files and their manifest; ``model=b"..."`` and so on replaces a content."""
    whole = CONTENTS | {path: contents[role] for path, role in ROLES.items() if role in contents}
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    for path, data in whole.items():
        (folder / path).write_bytes(data)
    manifest = Manifest(
        edgekit="0.1.0",
        name=name,
        target="x86",
        threads=1,
        needs=Needs(architecture="x86_64", cpu="x86-64", glibc="2.28", glibcxx="3.4"),
        runtime=RuntimeInfo(name="executorch", version="1.5.1", good_until="1.6"),
        plan=Plan(precision="fp32"),
        program=Program(
            inputs=(),
            outputs=(),
            delegates=(),
            kinds=(),
            layers=(),
            calls=(),
            libraries=(),
            planned_bytes=0,
        ),
        golden=Golden(inputs=(), outputs=(), output_strides=()),
        files=tuple(
            File(
                path=path,
                role=ROLES[path],
                sha256=file_digest(folder / path),
                size=(folder / path).stat().st_size,
            )
            for path in sorted(whole)
        ),
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    record = Record(
        manifest=manifest.digest, recipe="/r.py", recipe_sha256="0", device=None, limits={},
        figures={}, missing={}, accuracy=Accuracy(), parity=None, ladder=(), environment={},
        seconds={},
    )  # fmt: skip
    (folder / "verdict.json").write_bytes(record.to_bytes())
    return manifest
