"""How large the project's parts are, and how long its checks take; prints Markdown rows.

python scripts/bench/house.py            sizes alone
python scripts/bench/house.py --time     make check and make test too, half an hour on 2 cores
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from side_by_side import fact, print_table

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgekit"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    files = sorted(PACKAGE.rglob("*.py"))
    folders = Counter(path.parent for path in files if not path.name.startswith("_"))
    lines = {path: len(path.read_text().splitlines()) for path in files}
    functions = {where: count for path in files for where, count in functions_of(path)}
    size("largest folder of edgekit/", "files", 14, folders)
    size("largest file of edgekit/", "lines", 400, lines)
    size("longest function of edgekit/", "lines", 60, functions)
    if options.time:
        for target, limit_s in (("check", 120), ("test", 1500)):
            start = time.perf_counter()
            subprocess.run(["make", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            took_s = time.perf_counter() - start
            load = os.getloadavg()[1]
            measured = f"{took_s:.0f} s (load {load:.1f} on {os.cpu_count()} cores)"
            fact(f"make {target}", f"<= {limit_s} s", measured, took_s <= limit_s)
    print_table()


def size(what: str, unit: str, limit: int, counts: dict[Path, int] | Counter[Path]) -> None:
    place = max(counts, key=lambda key: counts[key])
    name = place.relative_to(PACKAGE) if place.is_relative_to(PACKAGE) else place
    fact(what, f"<= {limit} {unit}", f"{counts[place]} ({name})", counts[place] <= limit)


def functions_of(path: Path) -> Iterator[tuple[Path, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            yield path / node.name, node.end_lineno - node.lineno + 1


if __name__ == "__main__":
    main()
