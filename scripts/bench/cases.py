"""Builds every model of a folder of cases and checks the result by value.

python scripts/bench/cases.py FOLDER [NAME...] [--output FOLDER] [--target NAME] [--table FILE]

A case is a recipe, or a script that saves a .pt2. What is right for a case stands in `EXPECTED`,
by the beginning of its name, so that a variant of a case (`c49_dropout`, `c49x_rrelu`) is held to
the same. A case without an entry must build and agree with its float model. Every artifact is
run by the portable client of its bundle on fresh inputs, and compared with torch. Exit code 1:
a case is wrong. Builds stay in the output folder, by default build/cases.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from case_model import CaseModel, Comparison, compare
from side_by_side import EDGEKIT, PYTHON

from edgekit.bundle.manifest import read_manifest

SHORT_S = 40.0  # "within seconds": starting Python with torch and ExecuTorch takes most of it
LIMIT_S = 1500.0
MANY = 0.5  # the share of int8 operators that counts as "most of the network"
HEAVY = r"Conv(?!ert)|Fully|Linear|Matrix|addmm|bmm|conv"
LINE = r"\.py:\d+"

Json = dict[str, Any]


@dataclass(frozen=True)
class Build:
    """What one `edgekit build --json` printed and cost; ``document`` may be that of an error."""

    case: str
    code: int
    document: Json
    text: str
    seconds: float
    cpu_seconds: float
    bundle: Path
    model: CaseModel

    @property
    def built(self) -> bool:
        return "bundle" in self.document

    @property
    def precision(self) -> str:
        return str(self.document["plan"]["precision"]) if self.built else "-"

    @property
    def int8_share(self) -> float:
        """Of the convolutions and matrix products: most other operators have no int8 kernel."""
        if not self.built:
            return 0.0
        program = read_manifest(self.bundle).program
        operators = [one for call in program.calls for one in program.operators_of(call)]
        heavy = [one.kind.quantized for one in operators if re.search(HEAVY, one.kind.name)]
        return sum(heavy) / max(1, len(heavy))

    @property
    def outside(self) -> int:
        return sum(operator["count"] for operator in self.document["program"]["outside"])

    @property
    def error(self) -> str:
        """The error's message and hint, on one line."""
        parts = (self.document.get("message"), self.document.get("hint"))
        return " ".join(" ".join(part for part in parts if part).split())


# A check gives what is wrong, one text each.
Check = Callable[[Build], Iterable[str]]


@dataclass(frozen=True)
class Expected:
    what: str
    checks: tuple[Check, ...]
    flags: tuple[str, ...] = ()
    file: str | None = None  # the .pt2 that the case saves, if that is what is built


@dataclass(frozen=True)
class Result:
    case: str
    expected: Expected
    build: Build
    comparison: Comparison | None
    wrong: list[str] = field(default_factory=list)


def agrees(build: Build) -> Iterable[str]:
    """The artifact's outputs on fresh inputs, held against the float model's.

    Where the recipe has an evaluate(), that alone says how much int8 may lose: 1 point.
    """
    if build.built and build.document["accuracy"]["artifact"] is not None:
        yield from drop_at_most(1)(build)
    elif build.built:
        yield from compared(build).problems(build.precision)


def builds(build: Build) -> Iterable[str]:
    if not build.built:
        yield f"not built: {build.error[:300] or build.text[-300:]}"
    elif build.code != 0:
        yield f"exit code {build.code}"


def refused(*facts: str) -> Check:
    """Refused with an error that has a hint and all ``facts`` (regular expressions)."""

    def check(build: Build) -> Iterable[str]:
        if build.built or build.code != 1:
            yield f"not refused: exit code {build.code}, {build.precision}"
            return
        if not build.document.get("hint"):
            yield f"no hint: {build.error[:300]}"
        for fact in facts:
            if not re.search(fact, build.error, re.IGNORECASE):
                yield f"the error lacks {fact!r}: {build.error[:300]}"

    return check


def soon(build: Build) -> Iterable[str]:
    if build.cpu_seconds > SHORT_S:
        yield f"{build.cpu_seconds:.0f} CPU seconds, should be {SHORT_S:.0f} at most"


def mostly_int8(build: Build) -> Iterable[str]:
    if build.built and build.int8_share < MANY:
        yield f"{build.precision}, {100 * build.int8_share:.0f} % of the heavy operators int8"


def is_int8(build: Build) -> Iterable[str]:
    """int8, or refused only because its file is the larger one: so it may be for tiny models."""
    if build.built and build.precision != "int8":
        rungs = {rung["precision"]: rung for rung in build.document["ladder"]}
        if "larger" not in (rungs.get("int8", {}).get("payoff") or ""):
            yield f"{build.precision} instead of int8"


def says(*facts: str) -> Check:
    """All ``facts`` stand in what the build prints, on either stream."""

    def check(build: Build) -> Iterable[str]:
        for fact in facts if build.built else ():
            if not re.search(fact, build.text, re.IGNORECASE):
                yield f"the output lacks {fact!r}"

    return check


def never_says(fact: str) -> Check:
    def check(build: Build) -> Iterable[str]:
        if re.search(fact, build.text, re.IGNORECASE):
            yield f"the output has {fact!r}"

    return check


def all_delegated(build: Build) -> Iterable[str]:
    if build.built and build.outside:
        yield f"{build.outside} operators outside the delegate"


def advised(*kinds: str) -> Check:
    """There is advice, with what to write instead, that names each of the operators."""

    def check(build: Build) -> Iterable[str]:
        advice = build.document.get("advice", []) if build.built else []
        text = " ".join(str((a["operators"], a["instead"])) for a in advice if a["instead"])
        for kind in kinds if build.built else ():
            if not re.search(kind, text, re.IGNORECASE):
                yield f"no advice for {kind!r}"

    return check


def names_kept(build: Build) -> Iterable[str]:
    """Inputs that come by a key are named by it, or by a path that ends with it."""
    if build.built:
        found = [item["name"] for item in build.document["program"]["inputs"]]
        for name in build.model.leaf_names:
            if not any(one == name or one.endswith(f"_{name}") for one in found):
                yield f"no input {name}: {', '.join(found)}"


def parity_at_most(limit: float) -> Check:
    def check(build: Build) -> Iterable[str]:
        if build.built and (error := compared(build).relative_error) > limit:
            yield f"relative error {error:.1e}, should be {limit:.0e} at most"

    return check


def drop_at_most(points: float) -> Check:
    def check(build: Build) -> Iterable[str]:
        lines = build.document.get("budgets", []) if build.built else []
        for line in lines:
            if line["name"] == "accuracy_drop" and not (line["value"] or 0) <= points:
                yield f"{line['value']:.2f} points lost"

    return check


def whole_decibels(least: float) -> Check:
    """Signal to noise of all outputs, not centred."""

    def check(build: Build) -> Iterable[str]:
        if build.built and (found := compared(build).plain_db) < least:
            yield f"{found:.1f} dB, should be {least:.0f}"

    return check


def boxes_and_scores(build: Build) -> Iterable[str]:
    """Output (1, 4 + classes, n): boxes within 1 px, scores within 0.05."""
    if not build.built:
        return
    got, want = compared(build).outputs[0]
    error = (got - want).abs()
    boxes, scores = error[:, 0, :4].max().item(), error[:, 0, 4:].max().item()
    if boxes > 1 or scores > 0.05:
        yield f"boxes off by {boxes:.2f} px, scores by {scores:.3f}"


def box_within(pixels: float) -> Check:
    def check(build: Build) -> Iterable[str]:
        if build.built:
            got, want = compared(build).outputs[0]
            error = (got - want).square().mean().sqrt().item()
            if error >= pixels:
                yield f"box off by {error:.2f} px rms"

    return check


def stateful(build: Build) -> Iterable[str]:
    """State in and out that agrees over a sequence, or one early error that names the buffer."""
    if build.built:
        yield from (*builds(build), *agrees(build))
    else:
        names = "|".join(re.escape(name) for name in build.model.buffer_names)
        yield from (*refused(rf"\b({names})\b")(build), *soon(build))


def script(build: Build) -> Iterable[str]:
    """TorchScript: built and right, or refused with what turns it into a .pt2."""
    if build.built:
        yield from (*builds(build), *agrees(build))
    else:
        yield from refused("TorchScript", "TS2EPConverter")(build)


GOOD = (builds, agrees)
PLAIN = Expected("builds and agrees with the float model", GOOD)
INT8 = Expected("int8, and agrees", (*GOOD, is_int8))
MOSTLY_INT8 = Expected("most of it int8, and agrees", (*GOOD, mostly_int8))
FP32 = Expected("fp32 builds and agrees", GOOD, ("--precision", "fp32"))
RANDOM = Expected(
    "refused within seconds: random, with the line",
    (refused(r"random|dropout|same input", LINE), soon),
)
EXPECTED: dict[str, tuple[Expected, ...]] = {
    "c01": (Expected("refused: operator, line, what to do", (refused("fft", LINE),)),),
    "c02": (Expected("refused: operator, line, what to do", (refused("stft", LINE),)),),
    "c03": (Expected("state in and out, or an early error that names it", (stateful,)),),
    "c09b": (INT8,),
    "c09c": (
        Expected("fp32 with nothing outside the delegate", (*GOOD, all_delegated), FP32.flags),
        INT8,
    ),
    "c09d": (FP32,),
    "c10": (Expected("builds, or refused with the way to a .pt2", (script,)),),
    "c11_bf16": (Expected("computed in float32, and says so", (*GOOD, says("float32"))),),
    "c13": (
        Expected(
            "builds; advice for each kind of operator",
            (*GOOD, advised("instance|no_stats", "group", "reflect|pad|index")),
        ),
    ),
    "c17": (Expected("builds, inputs keep their names", (*GOOD, names_kept)),),
    "c26": (MOSTLY_INT8,),
    "c27": (
        Expected("int8 with 25 dB at least", (*GOOD, mostly_int8, whole_decibels(25))),
    ),
    "c34": (Expected("refused, with what to do", (refused("number|float"), soon)),),
    "c40": (MOSTLY_INT8,),
    "c40_yolo": (
        Expected(
            "boxes within 1 px, scores within 0.05, most of it int8",
            (*GOOD, boxes_and_scores, mostly_int8),
        ),
    ),
    "c43": (
        Expected(
            "int8 or mixed within 1 point, inside the kernels' limits",
            (*GOOD, mostly_int8, drop_at_most(1), never_says("unsupported_parameter")),
        ),
    ),
    "c46": (Expected("box within 0.3 px, or not int8", (*GOOD, box_within(0.3))),),
    "c47": (INT8,),
    "c48": (
        PLAIN,
        Expected("the .pt2 builds and agrees", GOOD, file="and.pt2"),
    ),
    "c49": (RANDOM,),
    "c51": (
        PLAIN,
        Expected("fp32 within 1e-6", (*GOOD, parity_at_most(1e-6)), FP32.flags),
    ),
    "c51b": (FP32, PLAIN),
    "c54": (Expected("the .pt2 builds and agrees", GOOD, file="scripted.pt2"),),
}  # fmt: skip


def expected(name: str) -> tuple[Expected, ...]:
    """The entry whose key is the longest beginning of the case's name."""
    keys = [key for key in EXPECTED if name.startswith(key)]
    return EXPECTED[max(keys, key=len)] if keys else (PLAIN,)


_COMPARED: dict[Path, Comparison] = {}


def compared(build: Build) -> Comparison:
    """The artifact against torch on fresh inputs, once for each bundle."""
    if build.bundle not in _COMPARED:
        _COMPARED[build.bundle] = compare(build.model, build.bundle)
    return _COMPARED[build.bundle]


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    results = []
    for path in sorted(options.folder.glob("*.py")):
        if not options.names or any(path.stem.startswith(name) for name in options.names):
            results += [result_of(path, one, options) for one in expected(path.stem)]
    text = table(results)
    print(text)
    if options.table:
        options.table.write_text(text + "\n")
    sys.exit(any(result.wrong for result in results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="cases whose names begin so; all without")
    parser.add_argument("--output", type=Path, default=Path("build/cases"))
    parser.add_argument("--target", default="x86")
    parser.add_argument("--table", type=Path, help="a file for the table")
    return parser.parse_args()


def result_of(path: Path, one: Expected, options: argparse.Namespace) -> Result:
    folder = options.output.absolute() / "-".join([path.stem, *flag_words(one)])
    folder.mkdir(parents=True, exist_ok=True)
    build = built(path, one, folder, options.target)
    wrong = [problem for check in one.checks for problem in tried(check, build)]
    result = Result(path.stem, one, build, _COMPARED.get(build.bundle), wrong)
    print(row(result), file=sys.stderr, flush=True)
    return result


def flag_words(one: Expected) -> list[str]:
    return [flag for flag in one.flags if not flag.startswith("-")] + (
        [one.file] if one.file else []
    )


def tried(check: Check, build: Build) -> list[str]:
    """What a check finds; a case's own code may fail in it in any way."""
    try:
        return list(check(build))
    except Exception as error:
        return [f"not comparable: {type(error).__name__}: {error}"[:300]]


def built(path: Path, one: Expected, folder: Path, target: str) -> Build:
    """Run the build as a user would, in a process of its own."""
    recipe = saved_program(path, folder, one.file) if one.file else path
    bundle = folder / "bundle"
    command = [*EDGEKIT, "build", recipe, "--target", target, "--output", bundle, "--json"]
    start, before = time.perf_counter(), cpu_seconds()
    done = run([*command, *one.flags], folder)
    return Build(
        case=path.stem,
        code=done.returncode,
        document=read_document(done.stdout),
        text=done.stdout + done.stderr,
        seconds=time.perf_counter() - start,
        cpu_seconds=cpu_seconds() - before,
        bundle=bundle,
        model=CaseModel(path, recipe if one.file else None),
    )


def saved_program(path: Path, folder: Path, name: str) -> Path:
    """The .pt2 that the case, run as a script, writes into the working folder."""
    run([PYTHON, path], folder)
    return folder / name


def run(command: list[Any], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1"}
    parts = [str(part) for part in command]
    try:
        return subprocess.run(
            parts, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(parts, -1, "", f"not finished after {LIMIT_S:.0f} s")


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_document(text: str) -> Json:
    try:
        document: Json = json.loads(text)
    except ValueError:
        return {}
    return document


def table(results: list[Result]) -> str:
    names = {result.case for result in results}
    right = names - {result.case for result in results if result.wrong}
    lines = ["| case | expected | found | s | CPU s | right? |", "|---|---|---|---|---|---|"]
    lines += [row(result) for result in results]
    return "\n".join([*lines, "", f"{len(right)} of {len(names)} cases are right."])


def row(result: Result) -> str:
    build = result.build
    name = " ".join([result.case, *flag_words(result.expected)])
    found = "; ".join([summary(result), *result.wrong]).replace("|", "/")
    found = re.sub(r"(?<![\w.])/\S*/", "", found)  # folders of this machine
    seconds = (f"{build.seconds:.0f}", f"{build.cpu_seconds:.0f}")
    cells = (name, result.expected.what, found, *seconds, "NO" if result.wrong else "yes")
    return "| " + " | ".join(cells) + " |"


def summary(result: Result) -> str:
    build = result.build
    if not build.built:
        return f"exit code {build.code}: {build.error[:160]}"
    share = f"{100 * build.int8_share:.0f} % int8"
    return ", ".join(
        [build.precision, share, *([str(result.comparison)] if result.comparison else [])]
    )


if __name__ == "__main__":
    main()
