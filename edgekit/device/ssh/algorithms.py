"""Ciphers, MACs and the like, where the user's configuration restricts or orders them."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.device.ssh.config import matches_list
from edgekit.device.ssh.link import Link
from edgekit.device.ssh.options import HostOptions
from edgekit.errors import DeviceError


def restrict(link: Link, options: HostOptions) -> None:
    """Make ``link`` offer what the options allow. Raises DeviceError where nothing is left."""
    link.use_compression(options.compression)
    for what, spec in options.algorithms.items():
        allowed = select(spec, getattr(link, f"preferred_{what}"))
        if not allowed:
            raise DeviceError(
                f"the ssh configuration of {options.alias} allows only {spec}: edgekit has none"
                " of these"
            )
        link.prefer(what, allowed)


def select(spec: str, available: Sequence[str]) -> tuple[str, ...]:
    """OpenSSH's lists: names and patterns; with + more than usual, with - less, with ^ first."""
    sign, names = (spec[0], spec[1:]) if spec[:1] in ("+", "-", "^") else ("", spec)
    named = [name for name in available if matches_list(name, names)]
    others = [name for name in available if name not in named]
    if sign == "+":
        return tuple(available)
    if sign == "-":
        return tuple(others)
    order = names.split(",")
    named.sort(key=lambda name: order.index(name) if name in order else len(order))
    return (*named, *others) if sign == "^" else tuple(named)
