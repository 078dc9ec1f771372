"""doctor: what works on this host, what is missing, and the command that installs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.documents.host import Ability, DoctorDocument, Finding
from edgekit.host.findings import (
    BUILD,
    HERE,
    SSH,
    WORKERS,
    building,
    building_with,
    checking,
    look_at_host,
)
from edgekit.host.prediction import PREDICTING
from edgekit.progress import Progress
from edgekit.runtimes.registry import RUNTIMES, runtimes_on
from edgekit.target import Architecture


def diagnose(progress: Progress) -> DoctorDocument:
    """Examine this host. Raises EdgekitError only if edgekit itself is not installed."""
    found = look_at_host(progress)
    findings, architectures = found.findings, found.architectures
    abilities = [
        *(_building(f"build for {one}", findings, one) for one in architectures),
        *(
            _ability(f"build with {name}", findings, {BUILD, building_with(name)})
            for name in RUNTIMES
        ),
        _ability("check and benchmark bundles here", findings, {HERE}),
        _ability("deploy over SSH", findings, {SSH}),
    ]
    for one in architectures:
        if one not in ("x86_64", found.host):
            purposes = {HERE, checking(one)}
            abilities.append(_ability(f"check {one} bundles here", findings, purposes))
    abilities.append(_ability("predict latency without a device", findings, {PREDICTING}))
    abilities.append(_ability("search with several processes (--workers)", findings, {WORKERS}))
    commands = [finding.command for finding in findings if not finding.is_fine and finding.command]
    return DoctorDocument(
        schema_="edgekit.doctor/1",
        ready=_building("", findings, "x86_64").works,
        findings=findings,
        abilities=tuple(abilities),
        commands=tuple(dict.fromkeys(commands)),
    )


def _building(name: str, findings: Sequence[Finding], architecture: Architecture) -> Ability:
    """With the runtime that lacks the least: one is enough."""
    found = [
        _ability(name, findings, {BUILD, building_with(runtime), building(architecture, runtime)})
        for runtime in runtimes_on(architecture)
    ]
    return min(found, key=lambda ability: len(ability.lacks))


def _ability(name: str, findings: Iterable[Finding], purposes: set[str]) -> Ability:
    """What is optional, and missing, has a command too."""
    missing = [f for f in findings if not f.is_fine or (f.status == "not_needed" and f.command)]
    lacks = [f.name for f in missing if purposes & set(f.needed_for)]
    return Ability(name=name, works=not lacks, lacks=tuple(lacks))
