"""The ssh configuration in effect for one host, as the installed OpenSSH client reports it.

``ssh -G`` resolves Host, Match and Include and prints each option on a line. It leaves ``~`` and
%-tokens in most values; options.py expands those.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.device.ssh.address import Address
from edgekit.errors import DeviceError

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
# `ssh -G` may be slow: 'Match exec' runs programs, and CanonicalizeHostname asks a name server.
CLIENT_LIMIT_S = 60.0
# In these values ssh itself replaces ``~`` by the account's home.
EXPANDED = ("userknownhostsfile", "identityagent")

# Key in lower case -> its values, one per line of `ssh -G`.
Values = dict[str, list[str]]


@dataclass(frozen=True)
class Settings:
    """``defaults``: the values for an empty configuration. ``notes``: what the user should know."""

    values: Values
    defaults: Values
    notes: tuple[str, ...] = ()


def find_client() -> str | None:
    """The installed ssh. None also for a user without an account, for whom ssh does not run."""
    return shutil.which("ssh") if _account_home() else None


def look_up(client: str, address: Address, home: Path) -> Settings:
    """Ask ``client`` for the options of ``address``. Raises DeviceError with ssh's message."""
    place = ["-l", address.user] if address.user else []
    place += ["-p", str(address.port)] if address.port else []
    with _files_of(home) as files:
        values = _ask(client, [*files, *place, "--", address.host])
    defaults = _defaults(client)
    if home == _account_home():
        return Settings(values, defaults)
    return Settings(
        _without_account(values, home), _without_account(defaults, home), _include_notes(home)
    )


def _account_home() -> Path | None:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


@contextmanager
def _files_of(home: Path) -> Iterator[Sequence[str]]:
    """The arguments that make ssh read the files of ``home``. By default it ignores $HOME."""
    if home == _account_home():
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="edgekit-ssh-") as file:
        for path in (home / ".ssh" / "config", SYSTEM_CONFIG):
            file.write(f'Include "{glob.escape(str(path))}"\n')
        file.flush()
        yield ["-F", file.name]


@cache
def _defaults(client: str) -> Values:
    return _ask(client, ["-F", "/dev/null", "--", "host"])


def _ask(client: str, arguments: Sequence[str]) -> Values:
    try:
        done = subprocess.run(
            [client, "-G", "-T", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=CLIENT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"'ssh -G {arguments[-1]}' has not ended after {CLIENT_LIMIT_S:g} s",
            "does a 'Match exec' of the ssh configuration run a slow program?",
        ) from None
    except OSError as error:
        raise DeviceError(f"{client} cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        raise DeviceError(
            f"ssh rejects its configuration: {_message(done.stderr)}",
            f"correct the file: 'ssh -G {arguments[-1]}' checks it",
        )
    return parse(done.stdout)


def parse(output: str) -> Values:
    """The output of ``ssh -G``."""
    values: Values = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value)
    return values


def _message(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines()]
    reasons = [line for line in lines if line and ": terminating, " not in line]
    return "; ".join(reasons) or "it gives no reason"


def _without_account(values: Values, home: Path) -> Values:
    """Undo ssh's replacement of ``~`` by the account's home: here ``~`` is $HOME.

    A file that exists only in the account's home was given by its full path, and is not changed.
    """
    account = f"{_account_home()}/"

    def restore(match: re.Match[str]) -> str:
        in_home, in_account = (Path(place) / match[2] for place in (home, account))
        was_full_path = in_account.exists() and not in_home.exists()
        return match[0] if was_full_path else f"{match[1]}~/{match[2]}"

    restored = {
        key: [re.sub(rf"(^| ){re.escape(account)}([^ ]*)", restore, v) for v in values[key]]
        for key in EXPANDED
        if key in values
    }
    return {**values, **restored}


def _include_notes(home: Path) -> tuple[str, ...]:
    """A note on relative Includes: ssh reads them from the account's home, never from $HOME."""
    path = home / ".ssh" / "config"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    included = re.findall(r"(?im)^[ \t]*include[ \t=]+([^#\n]*)", text)
    words = [w.strip('"') for line in included for w in re.findall(r'"[^"]*"|\S+', line)]
    relative = ", ".join(word for word in words if not word.startswith("/"))
    note = (
        f"{path} includes {relative}: ssh reads it from {_account_home()}, not from $HOME; use a"
        " full path"
    )
    return (note,) if relative else ()
