"""What of OpenSSH's configuration concerns edgekit, for one host."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.device.ssh.address import Address, parse_address
from edgekit.device.ssh.config import (
    Options,
    Query,
    Source,
    default_sources,
    expand_home,
    read_options,
    resolved_host,
)
from edgekit.errors import DeviceError, UsageError

DEFAULT_PORT = 22
DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
METHODS = ("publickey", "keyboard-interactive", "password")
DEFAULT_CONNECT_LIMIT_S = 15.0
DEFAULT_ALIVE_INTERVAL_S = 15.0
DEFAULT_ALIVE_COUNT = 3
ALGORITHMS = {
    "ciphers": "ciphers",
    "macs": "macs",
    "kexalgorithms": "kex",
    "hostkeyalgorithms": "keys",
    "pubkeyacceptedalgorithms": "pubkeys",
    "pubkeyacceptedkeytypes": "pubkeys",
}
# Key in small letters -> its name, and the values with which it changes nothing.
NOT_HONOURED = {
    "pkcs11provider": ("PKCS11Provider", {"none"}),
    "securitykeyprovider": ("SecurityKeyProvider", {"internal", "none"}),
    "hostbasedauthentication": ("HostbasedAuthentication", {"no"}),
    "proxyusefdpass": ("ProxyUseFdpass", {"no"}),
    "knownhostscommand": ("KnownHostsCommand", {"none"}),
    "revokedhostkeys": ("RevokedHostKeys", {"none"}),
    "canonicalizehostname": ("CanonicalizeHostname", {"no"}),
    "bindinterface": ("BindInterface", {"none"}),
    "verifyhostkeydns": ("VerifyHostKeyDNS", {"no"}),
    "nohostauthenticationforlocalhost": ("NoHostAuthenticationForLocalhost", {"no"}),
    "checkhostip": ("CheckHostIP", {"no"}),
    "permitlocalcommand": ("PermitLocalCommand", {"no"}),
    "requiredrsasize": ("RequiredRSASize", set[str]()),
    "setenv": ("SetEnv", set[str]()),
}


@dataclass(frozen=True)
class HostOptions:
    """One host's options in effect; times in seconds. ``proxy_jump``: the hops, nearest first.

    ``strict``: ``yes``, ``ask``, ``accept-new`` or ``no``. ``algorithms``: for what, and the list
    in OpenSSH's notation. ``not_honoured``: one sentence for each option that edgekit cannot obey.
    """

    alias: str
    hostname: str
    user: str
    port: int
    identity_files: tuple[Path, ...]
    are_identities_configured: bool
    identities_only: bool
    identity_agent: str
    certificate_files: tuple[Path, ...]
    user_known_hosts: tuple[Path, ...]
    global_known_hosts: tuple[Path, ...]
    host_key_alias: str | None
    hash_known_hosts: bool
    strict: str
    proxy_jump: tuple[Address, ...]
    proxy_command: str | None
    connect_limit_s: float
    alive_interval_s: float
    alive_count: int
    batch_mode: bool
    family: socket.AddressFamily
    bind_address: str | None
    compression: bool
    methods: tuple[str, ...]
    algorithms: dict[str, str]
    not_honoured: tuple[str, ...]


def resolve(address: Address, home: Path, sources: Sequence[Source] | None = None) -> HostOptions:
    """The options of ``address`` as OpenSSH would find them. Raises DeviceError."""
    query = Query(address.host, home, address.user, address.port)
    expander = _Expander(query)
    found = default_sources(home) if sources is None else sources
    options = read_options(query, found, expander.expand)
    return _Reading(query, options, expander).host_options()


def home_folder() -> Path:
    """$HOME, as the contract has it; the account database only where that is not set."""
    return Path(os.environ.get("HOME") or Path("~").expanduser())


class _Expander:
    """Puts values for %-tokens and ${VARIABLES}."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def expand(self, text: str, options: Options) -> str:
        def value(match: re.Match[str]) -> str:
            found = values.get(match[1])
            if found is None:
                raise DeviceError(f"the ssh configuration: '%{match[1]}' in '{text}' is unknown")
            return found

        values = self._values(options)
        return re.sub("%(.?)", value, text)

    def expand_path(self, text: str, options: Options) -> str:
        text = expand_home(self.expand(text, options), self._query.home)
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], text), text)

    def _values(self, options: Options) -> dict[str, str]:
        query = self._query
        host = resolved_host(query.host, options)
        port = options.get("port", [str(DEFAULT_PORT)])[0]
        user = options.get("user", [query.local_user])[0]
        local, jump = socket.gethostname(), options.get("proxyjump", [""])[0].partition(",")[0]
        hashed = hashlib.sha1(f"{local}{host}{port}{user}{jump}".encode()).hexdigest()
        return {
            "%": "%", "C": hashed, "d": str(query.home), "h": host, "i": str(os.getuid()),
            "j": jump, "k": options.get("hostkeyalias", [query.host])[0], "L": local.split(".")[0],
            "l": local, "n": query.host, "p": port, "r": user, "u": query.local_user,
        }  # fmt: skip


class _Reading:
    """From words to values."""

    def __init__(self, query: Query, options: Options, expander: _Expander) -> None:
        self._query = query
        self._options = options
        self._expander = expander

    def host_options(self) -> HostOptions:
        query, options = self._query, self._options
        known = [f"~/.ssh/{name}" for name in ("known_hosts", "known_hosts2")]
        known_globally = [f"/etc/ssh/ssh_{name}" for name in ("known_hosts", "known_hosts2")]
        default_identities = [f"~/.ssh/{name}" for name in DEFAULT_IDENTITIES]
        return HostOptions(
            alias=query.host,
            hostname=resolved_host(query.host, options).lower(),
            user=self._word("user") or query.local_user,
            port=self._port(),
            identity_files=self._paths("identityfile", default_identities),
            are_identities_configured="identityfile" in options,
            identities_only=self._flag("identitiesonly"),
            identity_agent=self._agent(),
            certificate_files=self._paths("certificatefile", []),
            user_known_hosts=self._paths("userknownhostsfile", known),
            global_known_hosts=self._paths("globalknownhostsfile", known_globally),
            host_key_alias=self._word("hostkeyalias"),
            hash_known_hosts=self._flag("hashknownhosts"),
            strict=self._strict(),
            proxy_jump=self._proxy_jump(),
            proxy_command=self._proxy_command(),
            connect_limit_s=self._seconds("connecttimeout") or DEFAULT_CONNECT_LIMIT_S,
            alive_interval_s=self._seconds("serveraliveinterval") or DEFAULT_ALIVE_INTERVAL_S,
            alive_count=self._count("serveralivecountmax", DEFAULT_ALIVE_COUNT),
            batch_mode=self._flag("batchmode"),
            family=self._family(),
            bind_address=self._word("bindaddress"),
            compression=self._flag("compression"),
            methods=self._methods(),
            algorithms={
                what: options[key][0] for key, what in ALGORITHMS.items() if key in options
            },
            not_honoured=tuple(self._not_honoured()),
        )

    def _word(self, key: str) -> str | None:
        words = self._options.get(key)
        return words[0] if words else None

    def _flag(self, key: str, default: bool = False) -> bool:
        word = self._word(key)
        return default if word is None else word.lower() in ("yes", "true")

    def _paths(self, key: str, default: list[str]) -> tuple[Path, ...]:
        words = self._options.get(key, default)
        if [word.lower() for word in words] == ["none"]:
            return ()
        expand = self._expander.expand_path
        return tuple(Path(expand(w, self._options)) for w in words if w.lower() != "none")

    def _port(self) -> int:
        word = self._word("port") or str(DEFAULT_PORT)
        if not word.isdigit() or not 0 < int(word) < 65536:
            raise DeviceError(f"the ssh configuration of {self._query.host}: '{word}' is no port")
        return int(word)

    def _seconds(self, key: str) -> float | None:
        """OpenSSH's times: 90, 90s, 1m30s; None for ``none``."""
        word = self._word(key)
        if word is None or word.lower() == "none":
            return None
        units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
        if not re.fullmatch(r"(\d+[smhdwSMHDW]?)+", word):
            raise DeviceError(f"the ssh configuration: {key} '{word}' is no time")
        parts = re.findall(r"(\d+)([smhdw]?)", word.lower())
        return float(sum(int(number) * units[unit] for number, unit in parts))

    def _count(self, key: str, default: int) -> int:
        word = self._word(key)
        return max(1, int(word)) if word and word.isdigit() else default

    def _family(self) -> socket.AddressFamily:
        families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
        return families.get((self._word("addressfamily") or "").lower(), socket.AF_UNSPEC)

    def _strict(self) -> str:
        word = (self._word("stricthostkeychecking") or "ask").lower()
        same = {"off": "no", "false": "no", "true": "yes"}
        return same.get(word, word)

    def _agent(self) -> str:
        """The agent's socket; empty for none."""
        word = self._word("identityagent") or "SSH_AUTH_SOCK"
        if word.lower() == "none":
            return ""
        if word == "SSH_AUTH_SOCK" or re.fullmatch(r"\$\w+", word):
            return os.environ.get(word.removeprefix("$"), "")
        return self._expander.expand_path(word, self._options)

    def _proxy_command(self) -> str | None:
        word = self._word("proxycommand")
        if word is None or word.lower() == "none":
            return None
        return self._expander.expand(word, self._options)

    def _proxy_jump(self) -> tuple[Address, ...]:
        word = self._word("proxyjump")
        if word is None or word.strip().lower() == "none":
            return ()
        return tuple(_hop(part.strip()) for part in word.split(","))

    def _methods(self) -> tuple[str, ...]:
        """Of the ways to log in that edgekit knows, those that are allowed, in order."""
        preferred = self._word("preferredauthentications") or ",".join(METHODS)
        allowed = {
            "publickey": self._flag("pubkeyauthentication", True),
            "password": self._flag("passwordauthentication", True),
            "keyboard-interactive": self._flag(
                "kbdinteractiveauthentication",
                self._flag("challengeresponseauthentication", True),
            ),
        }
        return tuple(name for name in preferred.split(",") if allowed.get(name))

    def _not_honoured(self) -> list[str]:
        said = []
        for key, (name, harmless) in NOT_HONOURED.items():
            words = self._options.get(key, [])
            if words and words[0].lower() not in harmless:
                said.append(f"{name} {' '.join(words)}")
        return said


def _hop(text: str) -> Address:
    """A hop of ProxyJump: [user@]host[:port], or a URI."""
    uri = text if text.startswith("ssh://") else f"ssh://{text}"
    try:
        return parse_address(uri)
    except UsageError as error:
        raise DeviceError(f"the ssh configuration: ProxyJump: {error.message}") from None


def _variable(name: str, text: str) -> str:
    if name not in os.environ:
        raise DeviceError(f"the ssh configuration: ${{{name}}} in '{text}' is not set")
    return os.environ[name]
