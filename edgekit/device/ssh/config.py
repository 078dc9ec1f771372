"""Reads ~/.ssh/config and /etc/ssh/ssh_config as OpenSSH does.

paramiko's own reader knows no Include, no ``final`` and no ``%%``, and takes the rest of a line
for one value; so this is our own. tests/ssh/test_ssh_config.py holds it against ``ssh -G``.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import DeviceError

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
INCLUDE_DEPTH = 16
EXEC_LIMIT_S = 30.0
# Their value is the rest of the line, not words.
RAW_KEYS = {"proxycommand", "proxyjump", "localcommand", "remotecommand", "knownhostscommand"}
# Every line of these counts, not only the first.
LISTED_KEYS = {"identityfile", "certificatefile"}

# Each key in small letters, with the words of its value; those of LISTED_KEYS one word a line.
Options = dict[str, list[str]]


@dataclass(frozen=True)
class Source:
    """A configuration file. A user's own must be the user's own, and ``~`` means something."""

    path: Path
    is_user: bool


@dataclass
class Query:
    """Whose options are asked for. ``user`` and ``port``: what the DEVICE argument says."""

    host: str
    home: Path
    user: str | None = None
    port: int | None = None
    local_user: str = field(default_factory=getpass.getuser)


def default_sources(home: Path) -> list[Source]:
    return [Source(home / ".ssh" / "config", True), Source(SYSTEM_CONFIG, False)]


def read_options(
    query: Query, sources: Sequence[Source], expand: Callable[[str, Options], str]
) -> Options:
    """All options in effect. ``expand`` puts values for %-tokens, given the options so far.

    Raises DeviceError: a file that OpenSSH would refuse, too.
    """
    options: Options = {}
    if query.user:
        options["user"] = [query.user]
    if query.port:
        options["port"] = [str(query.port)]
    first = _Pass(query, options, expand, query.host, is_final=False)
    first.read_all(sources)
    if first.wants_final:
        host = resolved_host(query.host, options)
        _Pass(query, options, expand, host, is_final=True).read_all(sources)
    return options


def resolved_host(host: str, options: Options) -> str:
    """HostName with its tokens, else the host itself."""
    name = options.get("hostname", ["%h"])[0]
    return re.sub("%[%h]", lambda match: "%" if match[0] == "%%" else host, name)


class _Pass:
    """One reading of all files. ``host`` is what Host patterns are held against."""

    def __init__(
        self,
        query: Query,
        options: Options,
        expand: Callable[[str, Options], str],
        host: str,
        *,
        is_final: bool,
    ) -> None:
        self._query = query
        self._options = options
        self._expand = expand
        self._host = host
        self._is_final = is_final
        self.wants_final = False

    def read_all(self, sources: Sequence[Source]) -> None:
        for source in sources:
            self._read(source, is_active=True, depth=0)

    def _read(self, source: Source, *, is_active: bool, depth: int) -> None:
        """``is_active``: whether the lines before the file's first Host or Match count."""
        text = _text_of(source)
        may_match = is_active
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{source.path}, line {number}"
            key, rest = _split_key(line)
            if not key:
                continue
            if key in ("host", "match"):
                matches = self._match_host if key == "host" else self._match
                is_active = may_match and matches(rest, where)
            elif key == "include":
                if depth >= INCLUDE_DEPTH:
                    raise DeviceError(f"{where}: too many files include each other")
                for path in _included(rest, source, self._query.home, where):
                    included = Source(path, source.is_user)
                    self._read(included, is_active=is_active, depth=depth + 1)
            elif is_active:
                self._set(key, rest, where)

    def _set(self, key: str, rest: str, where: str) -> None:
        words = [rest] if key in RAW_KEYS else split_words(rest, where)
        if not words or not words[0]:
            raise DeviceError(f"{where}: {key} has no value")
        if key == "proxyjump" and "proxycommand" in self._options:
            return
        if key == "proxycommand" and "proxyjump" in self._options:
            return
        if key not in LISTED_KEYS:
            self._options.setdefault(key, words)
        elif words[0] not in self._options.setdefault(key, []):
            self._options[key].append(words[0])

    def _match_host(self, rest: str, where: str) -> bool:
        patterns = split_words(rest, where)
        if any(p.startswith("!") and matches_pattern(self._host, p[1:]) for p in patterns):
            return False
        return any(matches_pattern(self._host, p) for p in patterns)

    def _match(self, rest: str, where: str) -> bool:
        """All criteria must hold. One that runs a program is asked only where the others hold."""
        holds = True
        for word, argument in _criteria(rest, where):
            name = word.removeprefix("!")
            if name == "exec":
                result = holds and self._run(argument)
            else:
                result = self._holds(name, argument, where)
            holds = holds and result != word.startswith("!")
        return holds

    def _holds(self, name: str, argument: str, where: str) -> bool:
        options, query = self._options, self._query
        if name == "all":
            return True
        if name == "canonical":
            return False  # names are not made canonical; options.py says so
        if name == "final":
            self.wants_final = True
            return self._is_final
        if name in ("host", "originalhost"):
            host = resolved_host(self._host, options) if name == "host" else query.host
            return matches_list(host.lower(), argument.lower())
        if name == "user":
            return matches_list(options.get("user", [query.local_user])[0], argument)
        if name == "localuser":
            return matches_list(query.local_user, argument)
        if name == "tagged":
            return matches_list(options.get("tag", [""])[0], argument)
        raise DeviceError(f"{where}: edgekit does not know 'Match {name}'")

    def _run(self, command: str) -> bool:
        shell = os.environ.get("SHELL") or "/bin/sh"
        line = self._expand(command, self._options)
        try:
            done = subprocess.run(
                [shell, "-c", line],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=EXEC_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def _text_of(source: Source) -> str:
    """A file that is not there is an empty one."""
    try:
        with source.path.open(encoding="utf-8", errors="surrogateescape") as file:
            if source.is_user:
                _check_owner(source.path, os.fstat(file.fileno()))
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise DeviceError(f"{source.path} cannot be read: {error.strerror}") from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.getuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DeviceError(
            f"{path} could have been written by somebody else: OpenSSH refuses it, too",
            f"chown it to yourself and chmod go-w {path}",
        )


def _split_key(line: str) -> tuple[str, str]:
    """A line's keyword and the rest. Between them stand spaces and at most one ``=``."""
    match = re.match(r'[ \t]*"?([^\s="#]+)"?[ \t]*=?[ \t]*(.*)', line.rstrip(" \t\r\f"))
    return (match[1].lower(), match[2]) if match else ("", "")


def split_words(text: str, where: str) -> list[str]:
    """Words between spaces; quotes and backslashes as OpenSSH has them; # begins a comment."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(range(len(text)))
    for i in characters:
        this, following = text[i], text[i + 1 : i + 2]
        if word is None and this == "#":
            break
        if word is None and this in " \t":
            continue
        word = word or ""
        if this == "\\" and (following in ("'", '"', "\\") or (not quote and following == " ")):
            word += following
            next(characters)
        elif not quote and this in " \t":
            words.append(word)
            word = None
        elif not quote and this in "'\"":
            quote = this
        elif this == quote:
            quote = ""
        else:
            word += this
    if quote:
        raise DeviceError(f"{where}: a quote that does not end")
    return words if word is None else [*words, word]


def _criteria(rest: str, where: str) -> Iterator[tuple[str, str]]:
    """What stands after Match: names, those that take one with their argument."""
    words = iter(split_words(re.sub(r"(?<=\w)=(?=\S)", " ", rest), where))
    for word in words:
        name = word.lower()
        if name.removeprefix("!") in ("all", "canonical", "final"):
            yield name, ""
            continue
        argument = next(words, None)
        if argument is None:
            raise DeviceError(f"{where}: Match {word} needs a value")
        yield name, argument


def _included(rest: str, source: Source, home: Path, where: str) -> list[Path]:
    folder = home / ".ssh" if source.is_user else SYSTEM_CONFIG.parent
    found: list[str] = []
    for word in split_words(rest, where):
        pattern = expand_home(word, home) if source.is_user else word
        found += sorted(glob.glob(str(folder / pattern)))  # noqa: PTH207 - it may be absolute
    return [Path(path) for path in found]


def expand_home(path: str, home: Path) -> str:
    """``~`` is $HOME, and not what the account database says."""
    if path == "~" or path.startswith("~/"):
        return str(home) + path[1:]
    return str(Path(path).expanduser()) if path.startswith("~") else path


def matches_pattern(text: str, pattern: str) -> bool:
    """``*`` and ``?`` only."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def matches_list(text: str, patterns: str) -> bool:
    """A list with commas; one that begins with ! and matches decides against."""
    each = patterns.split(",")
    if any(p.startswith("!") and matches_pattern(text, p[1:]) for p in each):
        return False
    return any(matches_pattern(text, p) for p in each)
