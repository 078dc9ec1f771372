"""known_hosts: whether a device's host key is known, new, changed or revoked.

The lines are parsed here: paramiko's parser drops @revoked, patterns, and all lines after a broken
key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.device.ssh.options import DEFAULT_PORT, HostOptions
from edgekit.errors import HostKeyError

# Key type that paramiko verifies -> the algorithms that sign with it, best first.
KEY_TYPES = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
HASHED = "|1|"


@dataclass(frozen=True)
class HostKey:
    """A public host key. ``data``: in SSH's wire format, with its type."""

    kind: str
    data: bytes

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.data).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


@dataclass(frozen=True)
class KnownKey:
    """A line of a known_hosts file. ``marker``: ``@revoked``, ``@cert-authority`` or nothing."""

    marker: str
    key: HostKey
    where: str


class KnownHosts:
    """The lines of known_hosts for one host. ``name``: the host's name in these files."""

    def __init__(self, options: HostOptions) -> None:
        self.name = host_name(options)
        self._options = options
        files = [*options.user_known_hosts, *options.global_known_hosts]
        self._lines = list(_lines_of(files, {self.name}))
        # as in OpenSSH, a key known for the default port is valid for the other ports
        plain = options.hostname if not options.host_key_alias else self.name
        self._default_port_lines = list(_lines_of(files, {plain}))

    def algorithms(self) -> list[str]:
        """The algorithms to request: those of known keys first, then by preference."""
        kinds = {name: kind for kind, names in KEY_TYPES.items() for name in names}
        preferred = self._options.algorithms.get("keys", tuple(kinds))
        known = {line.key.kind for line in self._plain()}
        usable = [name for name in preferred if name in kinds]
        return sorted(usable, key=lambda name: kinds[name] not in known)

    def check(self, key: HostKey) -> bool:
        """Whether the key is known. Raises HostKeyError if it is revoked or has changed."""
        for line in [*self._lines, *self._default_port_lines]:
            if line.marker == "@revoked" and line.key == key:
                raise HostKeyError(
                    f"the host key of {self.name} is revoked: {key}, in {line.where}",
                    "do not connect: somebody else may have that key",
                )
        known = self._plain()
        if any(line.key == key for line in known):
            return True
        if known:
            same_kind = [line for line in known if line.key.kind == key.kind]
            raise self._changed_error(key, (same_kind or known)[0])
        return any(line.key == key and not line.marker for line in self._default_port_lines)

    def unknown(self, key: HostKey) -> HostKeyError:
        authorities = [line for line in self._lines if line.marker == "@cert-authority"]
        also = (
            f"; {authorities[0].where} has an authority, but edgekit checks no host certificates"
            if authorities
            else ""
        )
        return HostKeyError(
            f"the host key of {self.name} is unknown: {key}{also}",
            "compare it with the device's (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then use"
            f" --accept-new-host-key, or connect once with: ssh {self._options.alias}",
        )

    def store(self, key: HostKey) -> Path:
        """Append the key to the user's file. Raises OSError."""
        path = self._options.user_known_hosts[0]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = _hash_name(self.name) if self._options.hash_known_hosts else self.name
        line = f"{name} {key.kind} {base64.b64encode(key.data).decode()}\n".encode()
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "rb+") as file:
            if _lacks_newline(path):
                line = b"\n" + line
            file.write(line)
        return path

    def _plain(self) -> list[KnownKey]:
        return [line for line in self._lines if not line.marker]

    def _changed_error(self, key: HostKey, known: KnownKey) -> HostKeyError:
        other_kind = "" if known.key.kind == key.kind else ", of another type"
        return HostKeyError(
            f"the host key of {self.name} has changed: the device has {key}{other_kind}, and"
            f" {known.where} has {known.key}",
            "the device was set up again, or somebody intercepts the connection. If you are sure"
            f" that it was set up again, run: ssh-keygen -R '{self.name}' -f"
            f" '{known.where.rpartition(', line ')[0]}'",
        )


def host_name(options: HostOptions) -> str:
    """The name of a host in known_hosts: HostKeyAlias, its name, or [name]:port."""
    if options.host_key_alias:
        return options.host_key_alias
    if options.port != DEFAULT_PORT:
        return f"[{options.hostname}]:{options.port}"
    return options.hostname


def _lines_of(paths: Sequence[Path], names: Iterable[str]) -> Iterator[KnownKey]:
    """The lines for one of ``names``. Invalid lines are skipped."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#"):
                continue
            if any(_is_for(words[0], name) for name in names):
                key = parse_key(words[1], words[2])
                if key:
                    yield KnownKey(marker, key, f"{path}, line {number}")


def parse_key(kind: str, text: str) -> HostKey | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # the key's first field repeats its type
    inner_kind = data[4 : 4 + int.from_bytes(data[:4], "big")]
    return HostKey(kind, data) if inner_kind == kind.encode() else None


def _is_for(hosts: str, name: str) -> bool:
    if not hosts.startswith(HASHED):
        return matches_list(name.lower(), hosts.lower())
    try:
        salt, digest = (base64.b64decode(part) for part in hosts.removeprefix(HASHED).split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def _hash_name(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.digest(salt, name.encode(), "sha1")
    return HASHED + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


def _lacks_newline(path: Path) -> bool:
    """Whether a regular file is not empty and ends without a newline."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def matches_list(text: str, patterns: str) -> bool:
    """Whether ``text`` matches a comma-separated list. A matching !pattern excludes it."""
    each = patterns.split(",")
    if any(p.startswith("!") and _matches(text, p[1:]) for p in each):
        return False
    return any(_matches(text, p) for p in each)


def _matches(text: str, pattern: str) -> bool:
    """Match a pattern whose only wildcards are ``*`` and ``?``."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None
