"""The ssh configuration as paramiko reads it, for hosts without a usable OpenSSH client.

paramiko supports less than OpenSSH. A note lists what it does not support in the user's files.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import paramiko

from edgekit.device.ssh.address import Address
from edgekit.device.ssh.config import SYSTEM_CONFIG, Settings
from edgekit.errors import DeviceError

# Conditions that paramiko would treat as true; exec it would run with the terminal as stdin.
UNKNOWN_MATCH = re.compile(
    r"^[ \t]*match[ \t=].*(?<!\S)!?(exec|tagged|localnetwork|version|sessiontype|command)[ \t=].*$",
    re.IGNORECASE | re.MULTILINE,
)
NO_HOST = "Match host !*"
ALGORITHMS = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms")
TIMES = ("connecttimeout", "serveraliveinterval")
COMMANDS = ("proxycommand", "localcommand", "remotecommand", "knownhostscommand")


def look_up(address: Address, home: Path) -> Settings:
    """The options of ``address``, in the form of ``ssh -G``. Raises DeviceError."""
    mine = home / ".ssh" / "config"
    texts = {path: _text_of(path, is_user=path == mine) for path in (mine, SYSTEM_CONFIG)}
    config = paramiko.SSHConfig()
    try:
        for text in (_argument_text(address), *texts.values()):
            config.parse(io.StringIO(UNKNOWN_MATCH.sub(NO_HOST, text)))
        options = config.lookup(address.host)
    except (paramiko.SSHException, KeyError, ValueError) as error:
        raise DeviceError(
            f"the ssh configuration cannot be read: {error}",
            "install the OpenSSH client (openssh-client): edgekit then uses its parser",
        ) from None
    values = {key: _as_list(value) for key, value in options.items()}
    supported = {key: value for key, value in values.items() if not _is_change(key, value[0])}
    notes = [_note(path, gaps) for path, text in texts.items() if (gaps := find_gaps(text))]
    return Settings(supported, {}, tuple(notes))


def find_gaps(text: str) -> list[str]:
    """The parts of a configuration that paramiko does not support, without repetition."""
    lines = re.findall(r"(?m)^[ \t]*(\w+)[ \t]*[ \t=][ \t]*(\S.*)$", text)
    gaps = [gap for word, value in lines for gap in _gaps_of(word, value)]
    gaps += [f"Match {word}" for word in UNKNOWN_MATCH.findall(text)]
    return list(dict.fromkeys(gaps))


def _gaps_of(keyword: str, value: str) -> Iterator[str]:
    key = keyword.lower()
    if key == "include":
        yield "Include"
    if _is_change(key, value) or (key in TIMES and not value.isdigit()):
        yield f"{keyword} {value}"
    if re.search(r"\s#", value) and key not in COMMANDS:
        yield "a comment after a value"


def _is_change(key: str, value: str) -> bool:
    """Whether a list of algorithms modifies OpenSSH's default list, which is unknown here."""
    return key in ALGORITHMS and value[:1] in ("+", "-", "^")


def _note(path: Path, gaps: list[str]) -> str:
    return (
        f"without an OpenSSH client, edgekit ignores these parts of {path}:"
        f" {', '.join(gaps)}; install the client (openssh-client)"
    )


def _argument_text(address: Address) -> str:
    """The DEVICE argument as a configuration to be read first: the first value counts."""
    user = f"User {address.user}\n" if address.user else ""
    return user + (f"Port {address.port}\n" if address.port else "")


def _text_of(path: Path, *, is_user: bool) -> str:
    """A file's text; empty if missing. Raises DeviceError if OpenSSH would refuse the file."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise DeviceError(f"{path} cannot be read: {error.strerror}") from None
    can_others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if is_user and (can_others_write or status.st_uid not in (0, os.getuid())):
        raise DeviceError(
            f"Bad owner or permissions on {path}: others can write it",
            f"chown it to yourself and chmod go-w {path}",
        )
    return text


def _as_list(value: str | list[str] | None) -> list[str]:
    """A value as a list. paramiko returns None for ``ProxyCommand none``."""
    return value if isinstance(value, list) else ["none" if value is None else value]
