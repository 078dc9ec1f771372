"""The DEVICE argument of an SSH device."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

from edgekit.errors import UsageError

# Names are put into proxy commands, which a shell runs.
UNSAFE = re.compile(r"""[\s\x00-\x1f\x7f'"`$\\;&<>|(){}*?!#/,]""")
FORMS = "DEVICE is local, host, user@host, ssh://user@host:port or an alias of ~/.ssh/config"


@dataclass(frozen=True)
class Address:
    """A parsed DEVICE. ``host`` may be an alias; ~/.ssh/config decides fields that are None."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_address(device: str) -> Address:
    """Parse ``[user@]host`` or ``ssh://[user@]host[:port]``. Raises UsageError."""
    is_uri = device.startswith("ssh://")
    rest = device.removeprefix("ssh://").removesuffix("/") if is_uri else device
    user, at, place = rest.rpartition("@")
    if is_uri:
        user = unquote(user)
        if ":" in user:
            raise _malformed(device, "a password in a DEVICE would be visible to other users")
    host, port = _split_port(device, place, is_uri)
    for what, text in (("host", host), ("user", user)):
        if UNSAFE.search(text) or text.startswith("-"):
            raise _malformed(device, f"its {what} contains a character that is not allowed")
    if not host:
        raise _malformed(device, "it has no host")
    if at and not user:
        raise _malformed(device, "it has no user before the @")
    return Address(host, user or None, port)


def _split_port(device: str, place: str, is_uri: bool) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", place)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        if not _is_ipv6(host):
            raise _malformed(device, f"'{host}' is not an IPv6 address")
    elif _is_ipv6(place):
        host, port = place, None
    else:
        host, colon, digits = place.partition(":")
        port = digits if colon else None
    if port is None:
        return host, None
    if not is_uri:
        raise _malformed(device, "a port needs the form ssh://user@host:port")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _malformed(device, f"'{port}' is not a port (1 to 65535)")
    return host, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _malformed(device: str, why: str) -> UsageError:
    return UsageError(f"invalid device '{device}': {why}", FORMS)
