"""Small programs for tests of their cost."""

from __future__ import annotations

from edgekit.program import Call, Kind, Program


def program(*names: str, outside: str | None = None) -> Program:
    kinds = tuple(Kind(name, False) for name in (*names, *([outside] if outside else [])))
    calls = [Call(0, True, tuple((index, None) for index in range(len(names))))]
    if outside:
        calls.append(Call(1, False, ((len(names), None),)))
    return Program(
        inputs=(),
        outputs=(),
        delegates=(),
        kinds=kinds,
        layers=(),
        calls=tuple(calls),
        libraries=(),
        planned_bytes=0,
        housekeeping=("Convert",),
    )
