"""Damages bundles, .pte and .pt2 files in many ways, and watches what edgekit makes of them.

    python scripts/fuzz.py [--bundles 500] [--pte 500] [--pt2 200] [--seed 0] [--write docs/fuzz.md]

Each case runs in a worker process, so that a crash or a hang is seen as one. What must never
happen: a hang, an error that is not edgekit's own, a crash, a message that does not name the file,
and a wrong "ok". A bundle has digests: any change must be refused. A .pt2 has checksums: what is
taken must give the very program of the whole file. A .pte has neither: where a damaged one still
loads and runs, it is another valid program, and nobody can tell that it was meant to be different.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits" / "recipe.py"
HANG_S = 150
BATCH = 50
ABSURD = (b"\xff" * 8, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\x00" * 8)
BAD = ("hang", "crash", "traceback", "wrong ok", "unnamed")


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.choice((0, 1, rng.randrange(len(data)), len(data) - 1)) :]


def replace(data: bytearray, rng: random.Random) -> None:
    other = (
        b"",
        b"{}",
        b"[]\n",
        b"PK\x03\x04",
        b"\x7fELF",
        b"not what you think\n",
        rng.randbytes(999),
    )
    data[:] = rng.choice(other)


def lengthen(data: bytearray, rng: random.Random) -> None:
    """Something that may be a length or an offset becomes absurd."""
    value, place = rng.choice(ABSURD), rng.randrange(max(1, len(data) // 4)) * 4
    if rng.random() < 0.5:
        place %= 1024  # headers
    data[place : place + len(value)] = value


def shuffle(data: bytearray, rng: random.Random) -> None:
    """A part of the file comes twice, or is gone."""
    start, size = rng.randrange(len(data)), rng.randrange(1, 512)
    if rng.random() < 0.5:
        del data[start : start + size]
    else:
        data[start:start] = data[start : start + size]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    flip, truncate, replace, lengthen, shuffle,
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What was done to which file, and what came of it."""

    number: int
    damage: str
    file: str
    outcome: str
    detail: str = ""


def damage_file(path: Path, rng: random.Random) -> str:
    """Change the file, really; give the name of what was done."""
    whole = path.read_bytes()
    while True:
        data, damage = bytearray(whole), rng.choice(DAMAGES)
        damage(data, rng)
        if bytes(data) != whole:
            path.write_bytes(bytes(data))
            return damage.__name__


def rewrite_graph(path: Path, rng: random.Random) -> str:
    """Change the JSON inside a .pt2 and zip it again, so that its checksums are right."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([name for name in entries if name.endswith(".json")])
    graph = json.loads(entries[name])
    holders = list(_containers(graph))
    holder = rng.choice(holders)
    if holder:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key] = rng.choice((None, -1, 2**62, "", "x" * 5000, [], {}, 1e308, True))
    entries[name] = json.dumps(graph).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return f"rewrite {name}"


def _containers(value: object) -> Iterator[dict | list]:
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def attempt(kind: str, whole: Path, rng: random.Random, folder: Path) -> tuple[str, str, str, str]:
    """One case: what was done, to which file, the outcome, its detail."""
    import edgekit
    from edgekit.errors import EdgekitError

    if kind == "bundle":
        place = folder / "bundle"
        shutil.copytree(whole, place)
        victim = rng.choice(sorted(path for path in place.rglob("*") if path.is_file()))
    else:
        place = victim = folder / f"damaged.{kind}"
        shutil.copyfile(whole, victim)
    rewrites = kind == "pt2" and rng.random() < 0.5
    damage = rewrite_graph(victim, rng) if rewrites else damage_file(victim, rng)
    name = str(victim.relative_to(folder))
    try:
        if kind == "bundle":
            edgekit.check(place)
            return damage, name, "wrong ok", ""
        edgekit.build(place, target="x86", output=folder / "out", effort="quick")
    except EdgekitError as error:
        named = victim.name in error.message or str(place) in error.message
        return damage, name, "refused" if named else "unnamed", error.message
    except Exception as error:
        return damage, name, "traceback", f"{type(error).__name__}: {error}"
    if kind == "pt2" and not rewrites:
        same = (folder / "out" / "model.pte").read_bytes() == (
            whole.parent / "pt2.pte"
        ).read_bytes()
        return damage, name, "taken" if same else "wrong ok", ""
    return damage, name, "taken", ""


def work(kind: str, whole: Path, seed: int, numbers: range) -> None:
    """In the worker: one line when a case starts, one when it is done."""
    for number in numbers:
        print(json.dumps({"start": number}), flush=True)
        rng = random.Random(f"{seed}/{kind}/{number}")
        with tempfile.TemporaryDirectory() as folder:
            damage, file, outcome, detail = attempt(kind, whole, rng, Path(folder))
        case = Case(number, damage, file, outcome, detail[:300])
        print(json.dumps({"done": vars(case)}), flush=True)


def run_cases(kind: str, whole: Path, seed: int, count: int) -> Iterator[Case]:
    """All cases, in workers that are replaced when one crashes or hangs."""
    number = 0
    while number < count:
        last = min(number + BATCH, count)
        command = [sys.executable, __file__, "--worker", kind, str(whole), str(seed)]
        worker = subprocess.Popen(
            [*command, str(number), str(last)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        hung = threading.Event()
        for line in _lines(worker, hung):
            told = json.loads(line)
            if "done" in told:
                number += 1
                yield Case(**told["done"])
        if worker.wait() != 0 or hung.is_set():
            outcome = "hang" if hung.is_set() else "crash"
            yield Case(number, "?", kind, outcome, f"exit {worker.returncode}")
            number += 1


def _lines(worker: subprocess.Popen, hung: threading.Event) -> Iterator[bytes]:
    def end() -> None:
        hung.set()
        worker.kill()

    while True:
        timer = threading.Timer(HANG_S, end)
        timer.start()
        line = worker.stdout.readline()
        timer.cancel()
        if not line:
            return
        yield line


def make_whole(folder: Path) -> dict[str, Path]:
    """What is damaged: the digits as a bundle, as .pte, and as an exported program."""
    import torch

    import edgekit
    from edgekit.recipe import open_recipe

    edgekit.build(DIGITS, target="x86", output=folder / "bundle")
    with open_recipe(DIGITS, 0) as recipe:
        program = torch.export.export(recipe.model(), recipe.example_inputs())
    torch.export.save(program, folder / "whole.pt2")
    edgekit.build(folder / "whole.pt2", target="x86", output=folder / "exported")
    shutil.copyfile(folder / "exported" / "model.pte", folder / "pt2.pte")
    return {
        "bundle": folder / "bundle",
        "pte": folder / "bundle" / "model.pte",
        "pt2": folder / "whole.pt2",
    }


def table(results: dict[str, list[Case]], seed: int) -> str:
    rows = [
        "| damaged | cases | refused | taken | hang | crash | traceback | wrong ok | unnamed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, cases in results.items():
        found = Counter(case.outcome for case in cases)
        cells = [found[key] for key in ("refused", "taken", *BAD)]
        rows.append(f"| {kind} | {len(cases)} | " + " | ".join(map(str, cells)) + " |")
    ways = Counter(case.damage.split()[0] for cases in results.values() for case in cases)
    said = ", ".join(f"{name} {count}" for name, count in sorted(ways.items()))
    return "\n".join([*rows, "", f"Seed {seed}. Ways of damage: {said}."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=int, default=500)
    parser.add_argument("--pte", type=int, default=500)
    parser.add_argument("--pt2", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=5, metavar="...", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, whole, seed, first, last = options.worker
        work(kind, Path(whole), int(seed), range(int(first), int(last)))
        return 0
    counts = {"bundle": options.bundles, "pte": options.pte, "pt2": options.pt2}
    results: dict[str, list[Case]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wholes = make_whole(Path(folder))
        for kind, count in counts.items():
            results[kind] = []
            for case in run_cases(kind, wholes[kind], options.seed, count):
                results[kind].append(case)
                if case.outcome in BAD:
                    print(f"{kind} {case}", file=sys.stderr)
    print(table(results, options.seed))
    return int(any(case.outcome in BAD for cases in results.values() for case in cases))


if __name__ == "__main__":
    sys.exit(main())
