"""The options of OpenSSH's configuration that edgekit uses, for one host."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgekit.device.ssh import config, fallback
from edgekit.device.ssh.address import Address, parse_address
from edgekit.device.ssh.config import Settings
from edgekit.errors import DeviceError, UsageError

DEFAULT_PORT = 22
DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
METHODS = ("publickey", "keyboard-interactive", "password")
DEFAULT_CONNECT_LIMIT_S = 15.0
DEFAULT_ALIVE_INTERVAL_S = 15.0
DEFAULT_ALIVE_COUNT = 3
OFF = ("no", "false", "none", "off")
ALGORITHMS = {
    "ciphers": "ciphers",
    "macs": "macs",
    "kexalgorithms": "kex",
    "hostkeyalgorithms": "keys",
    "pubkeyacceptedalgorithms": "pubkeys",
    "pubkeyacceptedkeytypes": "pubkeys",
}
NOT_HONOURED = (
    "PKCS11Provider", "SecurityKeyProvider", "HostbasedAuthentication", "ProxyUseFdpass",
    "KnownHostsCommand", "RevokedHostKeys", "BindInterface", "VerifyHostKeyDNS",
    "NoHostAuthenticationForLocalhost", "CheckHostIP", "PermitLocalCommand", "RequiredRSASize",
    "SetEnv",
)  # fmt: skip


@dataclass(frozen=True)
class HostOptions:
    """One host's options in effect; times in seconds. ``proxy_jump``: the hops, nearest first.

    ``strict``: ``yes``, ``ask``, ``accept-new`` or ``no``. ``algorithms``: purpose -> names in
    order, only where the configuration sets them. ``not_honoured``: options in effect that
    edgekit does not support. ``notes``: other warnings about the configuration.
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
    algorithms: dict[str, tuple[str, ...]]
    not_honoured: tuple[str, ...]
    notes: tuple[str, ...]


def resolve(address: Address, home: Path) -> HostOptions:
    """The options of ``address``, as OpenSSH resolves them. Raises DeviceError."""
    client = config.find_client()
    look_up = partial(config.look_up, client) if client else fallback.look_up
    return read(address, home, look_up(address, home))


def read(address: Address, home: Path, settings: Settings) -> HostOptions:
    """Parse ``settings``. Raises DeviceError for a value that edgekit cannot parse."""
    return _Reading(address, home, settings).host_options()


def home_folder() -> Path:
    """$HOME; if unset, the account's home."""
    return Path(os.environ.get("HOME") or Path("~").expanduser())


class _Reading:
    """Parses the words of a configuration."""

    def __init__(self, address: Address, home: Path, settings: Settings) -> None:
        self._address = address
        self._home = home
        self._settings = settings
        self._hostname = (self._word("hostname") or address.host).lower()
        self._user = self._word("user") or address.user or getpass.getuser()
        self._port = self._valid_port(self._word("port") or str(address.port or DEFAULT_PORT))

    def host_options(self) -> HostOptions:
        settings = self._settings
        known = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
        known_globally = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
        return HostOptions(
            alias=self._address.host,
            hostname=self._hostname,
            user=self._user,
            port=self._port,
            identity_files=self._paths("identityfile", DEFAULT_IDENTITIES),
            are_identities_configured=self._is_configured("identityfile"),
            identities_only=self._flag("identitiesonly"),
            identity_agent=self._agent(),
            certificate_files=self._paths("certificatefile"),
            user_known_hosts=self._files("userknownhostsfile", known),
            global_known_hosts=self._files("globalknownhostsfile", known_globally),
            host_key_alias=self._word("hostkeyalias"),
            hash_known_hosts=self._flag("hashknownhosts"),
            strict=self._strict(),
            proxy_jump=self._proxy_jump(),
            proxy_command=self._proxy_command(),
            connect_limit_s=self._seconds("connecttimeout", DEFAULT_CONNECT_LIMIT_S),
            alive_interval_s=self._seconds("serveraliveinterval", DEFAULT_ALIVE_INTERVAL_S),
            alive_count=int(self._seconds("serveralivecountmax", DEFAULT_ALIVE_COUNT)),
            batch_mode=self._flag("batchmode"),
            family=self._family(),
            bind_address=self._word("bindaddress"),
            compression=self._flag("compression"),
            methods=self._methods(),
            algorithms=self._algorithms(),
            not_honoured=tuple(self._not_honoured()),
            notes=settings.notes,
        )

    def _word(self, key: str) -> str | None:
        values = self._settings.values.get(key)
        return values[0] if values else None

    def _flag(self, key: str, default: bool = False) -> bool:
        word = self._word(key)
        return default if word is None else word.lower() not in OFF

    def _is_configured(self, key: str) -> bool:
        values = self._settings.values.get(key)
        return values is not None and values != self._settings.defaults.get(key)

    def _paths(self, key: str, default: tuple[str, ...] = ()) -> tuple[Path, ...]:
        """Paths from an option with one file name per line."""
        words = self._settings.values.get(key, [f"~/.ssh/{name}" for name in default])
        return tuple(self._path(word) for word in words if word.lower() != "none")

    def _files(self, key: str, default: str) -> tuple[Path, ...]:
        """Paths from one line. A word that cannot begin a path continues the previous one."""
        names: list[str] = []
        for word in (self._word(key) or default).split(" "):
            if names and not re.match(r"[/~$%]", word):
                names[-1] += f" {word}"
            else:
                names.append(word)
        return () if names == ["none"] else tuple(self._path(name) for name in names)

    def _path(self, text: str) -> Path:
        text = self._expand(text)
        if text == "~" or text.startswith("~/"):
            text = str(self._home) + text[1:]
        text = re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], text), text)
        return Path(os.path.expanduser(text))  # noqa: PTH111 - it does not change an unknown ~user

    def _expand(self, text: str, tokens: str = "%CdhijkLlnpru") -> str:
        """Replace the %-tokens in ``tokens``; others stay."""
        values = self._tokens() if "%" in text else {}
        return re.sub(f"%([{tokens}])", lambda match: values[match[1]], text)

    def _tokens(self) -> dict[str, str]:
        alias, local = self._address.host, socket.gethostname()
        host, port, user = self._hostname, str(self._port), self._user
        jump = (self._word("proxyjump") or "").partition(",")[0]
        hashed = hashlib.sha1(f"{local}{host}{port}{user}{jump}".encode()).hexdigest()
        return {
            "%": "%", "C": hashed, "d": str(self._home), "h": host, "i": str(os.getuid()),
            "j": jump, "k": self._word("hostkeyalias") or alias, "L": local.split(".")[0],
            "l": local, "n": alias, "p": port, "r": user, "u": getpass.getuser(),
        }  # fmt: skip

    def _valid_port(self, word: str) -> int:
        if not word.isdigit() or not 0 < int(word) < 65536:
            raise DeviceError(
                f"the ssh configuration of {self._address.host}: '{word}' is not a port"
            )
        return int(word)

    def _seconds(self, key: str, default: float) -> float:
        """A number above 0, else the default: nothing may wait forever."""
        word = self._word(key) or ""
        return float(word) if word.isdigit() and int(word) else default

    def _family(self) -> socket.AddressFamily:
        families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
        return families.get((self._word("addressfamily") or "").lower(), socket.AF_UNSPEC)

    def _strict(self) -> str:
        word = (self._word("stricthostkeychecking") or "ask").lower()
        same = {"off": "no", "false": "no", "true": "yes"}
        return same.get(word, word)

    def _agent(self) -> str:
        """The agent's socket; empty if there is none."""
        word = self._word("identityagent") or "SSH_AUTH_SOCK"
        if word.lower() == "none":
            return ""
        if word == "SSH_AUTH_SOCK" or re.fullmatch(r"\$\w+", word):
            return os.environ.get(word.removeprefix("$"), "")
        return str(self._path(word))

    def _proxy_command(self) -> str | None:
        word = self._word("proxycommand")
        return None if word is None or word.lower() == "none" else self._expand(word)

    def _proxy_jump(self) -> tuple[Address, ...]:
        word = (self._word("proxyjump") or "none").strip()
        if word.lower() == "none":
            return ()
        return tuple(_hop(part.strip()) for part in self._expand(word, "%hnpr").split(","))

    def _methods(self) -> tuple[str, ...]:
        """The login methods that edgekit supports and the options allow, in order."""
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

    def _algorithms(self) -> dict[str, tuple[str, ...]]:
        return {
            what: tuple((self._word(key) or "").split(","))
            for key, what in ALGORITHMS.items()
            if self._is_configured(key)
        }

    def _not_honoured(self) -> list[str]:
        ignored = []
        for name in NOT_HONOURED:
            words = self._settings.values.get(name.lower(), ["none"])
            if self._is_configured(name.lower()) and words[0].lower() not in (*OFF, "internal"):
                ignored.append(f"{name} {' '.join(words)}")
        return ignored


def _hop(text: str) -> Address:
    """Parse a hop of ProxyJump: [user@]host[:port] or a URI. ssh puts IPv4 in brackets, too."""
    uri = re.sub(r"\[([\d.]+)\]", r"\1", "ssh://" + text.removeprefix("ssh://"))
    try:
        return parse_address(uri)
    except UsageError as error:
        raise DeviceError(f"the ssh configuration: ProxyJump: {error.message}") from None


def _variable(name: str, text: str) -> str:
    if name not in os.environ:
        raise DeviceError(f"the ssh configuration: ${{{name}}} in '{text}' is not set")
    return os.environ[name]
