"""Writes what bench/models.py found: docs/models.json, and what docs/models.md says of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- from here written by scripts/bench/models.py -->", "<!-- to here -->"
HEADER = [
    "model", "fp32 ms", "int8 ms", "eager ms", "int8 / fp32", "int8 / eager", "fp32 MB", "int8 MB",
    "SQNR dB", "parity dB", "outside", "inside",
]  # fmt: skip
KNOWN_CAUSES = 4

Row = dict[str, Any]


def write_table(rows: list[Row], names: list[str]) -> None:
    """``names``: all models of the zoo; those without a row are named."""
    for row in rows:
        for builds in row["builds"].values():
            for target, one in builds.items():
                one.pop("advice", None)  # long, and in the document of the build itself
                if target != "x86":
                    one.pop("outside", None)  # the same
    (DOCS / "models.json").write_text(json.dumps(rounded(rows), separators=(",", ":")) + "\n")
    path = DOCS / "models.md"
    text = path.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{body(rows, names)}\n{END}{after}")


def read_table() -> list[Row]:
    rows: list[Row] = json.loads((DOCS / "models.json").read_text())
    return rows


def rounded(value: Any) -> Any:
    """Numbers to five significant digits; no path of the machine that it ran on."""
    if isinstance(value, float):
        if not math.isfinite(value):  # JSON knows no infinity
            return None
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return re.sub(r"/\S*/(scripts/)", r"\1", value) if isinstance(value, str) else value


def body(rows: list[Row], names: list[str]) -> str:
    built = [row for row in rows if is_built(row, "fp32") or is_built(row, "int8")]
    timed = [row for row in built if row.get("latency_ms")]
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in built]
    parts = [
        ("Exported by packages", packages(built)),
        ("Not built", not_built(rows, names)),
        ("Not timed", not_timed(built)),
        ("Parity", parity(built)),
        ("int8 against fp32", slower(timed)),
        ("int8 against eager torch", eager(timed)),
        ("What is left outside", outside(built)),
    ]
    return "\n".join(lines) + "".join(f"\n\n### {title}\n\n{text}" for title, text in parts) + "\n"


def packages(built: list[Row]) -> str:
    """Exported programs: both artifacts against the outputs of the package's own torch."""
    lines = [
        "| model | what | fp32, relative error | int8 dB | worst group dB |",
        "|---|---|---|---|---|",
    ]
    for row in built:
        if row.get("exported"):
            found = {p: row["builds"][p]["x86"].get("torch") or {} for p in ("fp32", "int8")}
            error = found["fp32"].get("relative_error")
            cells = (row["name"], row["what"], "-" if error is None else f"{error:.0e}")
            levels = [found["int8"].get(key) for key in ("whole_db", "group_db")]
            lines.append("| " + " | ".join([*cells, *(number(db, 1) for db in levels)]) + " |")
    return "\n".join(lines)


def is_built(row: Row, precision: str) -> bool:
    return all("error" not in one for one in row["builds"][precision].values())


def whole(row: Row) -> bool:
    """Is everything inside the delegate, in both precisions?"""
    return all(
        is_built(row, p) and row["builds"][p]["x86"]["program"]["outside"] == 0
        for p in ("fp32", "int8")
    )


def cells(row: Row) -> list[str]:
    ms, ratios = row.get("latency_ms", {}), row.get("ratios", {})
    builds = {p: row["builds"][p]["x86"] if is_built(row, p) else None for p in ("fp32", "int8")}
    int8 = builds["int8"]
    shares = {p: row.get("delegate_share", {}).get(p) for p in builds}
    return [
        row["name"],
        *(number(ms.get(key)) for key in ("fp32", "int8", "eager")),
        *(number((ratios.get(f"int8/{other}") or [None])[0], 2) for other in ("fp32", "eager")),
        *(number(one and one["model_mb"]) for one in builds.values()),
        decibels(int8 and int8["parity"]["float_model"]),
        decibels(int8 and int8["parity"]),
        both(one and str(one["program"]["outside"]) for one in builds.values()),
        both(one and f"{100 * one['inside']:.0f} %" for one in shares.values()),
    ]


def number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isinf(value):
        return "-"
    return f"{value:.{digits}f}" if value < 10 else f"{value:.1f}"


def decibels(agreement: Row | None) -> str:
    if not agreement:
        return "-"
    return "equal" if agreement["sqnr_db"] is None else f"{agreement['sqnr_db']:.0f}"


def both(texts: Any) -> str:
    first, second = (text or "-" for text in texts)
    return first if first == second else f"{first}, {second}"


def not_built(rows: list[Row], names: list[str]) -> str:
    lines = []
    for row in rows:
        for precision in ("fp32", "int8"):
            errors = {o["message"] for o in row["builds"][precision].values() if "error" in o}
            lines += [f"- {row['name']}, {precision}: {rounded(text)}" for text in sorted(errors)]
    missing = sorted(set(names) - {row["name"] for row in rows})
    lines += [f"- not tried in this run: {', '.join(missing)}"] if missing else []
    return "\n".join(lines) or "Nothing."


def not_timed(built: list[Row]) -> str:
    """Latencies need a quiet machine; rows were built on any."""
    names = [row["name"] for row in built if not row.get("latency_ms")]
    return f"Built, but without latencies: {', '.join(names) or 'none'}."


def parity(built: list[Row]) -> str:
    """Every build that was made has passed its parity, or it would be an error."""
    count = sum(is_built(row, p) for row in built for p in ("fp32", "int8"))
    unchecked = [
        f"{row['name']} {p}: {row['builds'][p]['rpi4']['cpu']['reason']}"
        for row in built
        for p in ("fp32", "int8")
        if is_built(row, p) and row["builds"][p]["rpi4"]["cpu"]["status"] != "passed"
    ]
    models = len({row["name"] for row in built})
    text = f"{models} models, {count} artifacts, each for x86 and rpi4: parity passed for all."
    rest = "; ".join(unchecked)
    cpu = f" Not run on the emulated Cortex-A72: {rest}." if rest else (
        " All have run their golden inputs on an emulated Cortex-A72, and agree."
    )  # fmt: skip
    return text + cpu


def slower(timed: list[Row]) -> str:
    rows = [row for row in timed if "int8/fp32" in row.get("ratios", {})]
    found = [row for row in rows if row["ratios"]["int8/fp32"][1] > 1]
    open_ = [row for row in rows if row not in found and row["ratios"]["int8/fp32"][2] > 1]
    lines = [f"- {row['name']}: {span(row, 'int8/fp32')}" for row in found]
    told = "int8 is slower in these rows:\n\n" + "\n".join(lines) if lines else (
        "int8 is slower in no row."
    )  # fmt: skip
    names = ", ".join(row["name"] for row in open_)
    return told + (f"\n\nNo difference could be shown: {names}." if names else "")


def eager(timed: list[Row]) -> str:
    rows = [row for row in timed if "int8/eager" in row.get("ratios", {})]
    lines = []
    for title, some in (
        ("fully delegated", [row for row in rows if whole(row)]),
        ("in part", [row for row in rows if not whole(row)]),
    ):
        good = [row for row in some if row["ratios"]["int8/eager"][2] <= 1]
        bad = [f"{row['name']} {span(row, 'int8/eager')}" for row in some if row not in good]
        rest = f"; not, or not shown: {', '.join(bad)}" if bad else ""
        lines.append(f"- {title}: {len(good)} of {len(some)} rows as fast or faster{rest}.")
    return "\n".join(lines)


def span(row: Row, key: str) -> str:
    median, low, high = row["ratios"][key]
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def outside(built: list[Row]) -> str:
    """Per model: the causes with most calls, and how much of the time the slowest kernels take."""
    lines = []
    for row in built:
        precision = "int8" if is_built(row, "int8") else "fp32"
        one = row["builds"][precision]["x86"]
        if not one["program"]["outside"]:
            continue
        operators: dict[str, int] = {}
        for item in one["outside"]:
            name = item["operator"].split("::")[-1]
            operators[name] = operators.get(name, 0) + item["count"]
        top = sorted(operators.items(), key=lambda item: -item[1])
        said = ", ".join(f"{name} {count}x" for name, count in top[:KNOWN_CAUSES])
        more = f" and {len(top) - KNOWN_CAUSES} more kinds" if len(top) > KNOWN_CAUSES else ""
        slowest = row.get("delegate_share", {}).get(precision, {}).get("slowest_outside", {})
        time = next((f"; slowest {k}, {100 * v:.0f} % of the time" for k, v in slowest.items()), "")
        lines.append(f"- {row['name']} ({precision}): {said}{more}{time}")
    return "\n".join(lines) or "Nothing."
