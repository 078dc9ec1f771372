"""A real OpenSSH server on this machine, and a client's home that reaches it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
START_LIMIT_S = 20.0
KINDS = ("ed25519", "ecdsa", "rsa")


def missing() -> str | None:
    """Why no server can be started here."""
    if SSHD and shutil.which("ssh-keygen") and shutil.which("ssh"):
        return None
    return "openssh-server and openssh-client are not installed (make test says which)"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", *options: str) -> Path:
    """A private key, its public part beside it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    bits = ["-b", "2048"] if kind == "rsa" else []
    command = ["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-f", str(path), *options]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


class SshServer:
    """sshd on a free port of 127.0.0.1, as the user who runs the tests.

    ``options``: lines of sshd_config that come before its own. ``home`` holds a client's .ssh:
    a key that is accepted, a configuration, known_hosts. ``device`` is an alias of it: set $HOME
    to ``home`` and connect to it. ``remote_home`` is $HOME on the other side.
    """

    device = "board"
    host = "127.0.0.1"

    def __init__(self, folder: Path, *options: str, kinds: tuple[str, ...] = ("ed25519",)) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.remote_home = folder / "remote_home"
        self.user = getpass.getuser()
        self.options = options
        self.port = _free_port()
        self.host_keys = {k: make_key(folder / "server" / f"host_{k}", k) for k in kinds}
        self.authorized_keys = folder / "server" / "authorized_keys"
        self.log = folder / "server" / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._make_home()

    def __enter__(self) -> SshServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        config = self.folder / "server" / "sshd_config"
        config.write_text("\n".join([*self.options, *self._lines()]) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL
            )
        self._await_banner()

    def stop(self) -> None:
        if self._process:
            for pid in self.sessions():
                _kill(pid)
            self._process.kill()
            self._process.wait()
            self._process = None

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection now."""
        assert self._process
        found, new = [], [self._process.pid]
        while new:
            parents, new = new, []
            for parent in parents:
                new += _children_named(parent, "sshd")
            found += new
        return found

    def is_ancestor_of(self, pid: int) -> bool:
        while self._process and pid > 1:
            if pid == self._process.pid:
                return True
            pid = _parent(pid)
        return False

    def write_config(self, text: str = "", alias_options: str = "") -> None:
        """~/.ssh/config: ``text``, then the alias ``board``, with ``alias_options`` first."""
        lines = [
            text, f"Host {self.device}", alias_options, f"  HostName {self.host}",
            f"  Port {self.port}", f"  User {self.user}", "  IdentityAgent none",
        ]  # fmt: skip
        path = self.home / ".ssh" / "config"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def trust(self, *kinds: str) -> None:
        """known_hosts knows the server by its keys of these kinds, and nothing else."""
        lines = [f"[{self.host}]:{self.port} {self.public_key(kind)}\n" for kind in kinds]
        self.known_hosts.write_text("".join(lines))

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    def public_key(self, kind: str) -> str:
        words = Path(f"{self.host_keys[kind]}.pub").read_text().split()
        return " ".join(words[:2])

    def authorize(self, *keys: Path) -> None:
        """Accept these keys, and no others."""
        text = "".join(Path(f"{key}.pub").read_text() for key in keys)
        self.authorized_keys.write_text(text)
        self.authorized_keys.chmod(0o600)

    def _make_home(self) -> None:
        (self.home / ".ssh").mkdir(mode=0o700, parents=True)
        self.remote_home.mkdir()
        self.key = make_key(self.home / ".ssh" / "id_ed25519")
        self.authorize(self.key)
        self.write_config()
        self.trust(next(iter(self.host_keys)))

    def _lines(self) -> list[str]:
        return [
            f"Port {self.port}", f"ListenAddress {self.host}", "PidFile none", "UsePAM no",
            *(f"HostKey {path}" for path in self.host_keys.values()),
            f"AuthorizedKeysFile {self.authorized_keys}", "StrictModes no",
            "PermitRootLogin yes", "PasswordAuthentication no", "PrintMotd no",
            "KbdInteractiveAuthentication no", "Subsystem sftp internal-sftp",
            f"SetEnv HOME={self.remote_home}",
        ]  # fmt: skip

    def _await_banner(self) -> None:
        until = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until:
            try:
                with closing(socket.create_connection((self.host, self.port), 1)) as sock:
                    sock.settimeout(2)
                    if sock.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.02)
            if self._process and self._process.poll() is not None:
                break
        raise AssertionError(f"sshd does not start: {self.log.read_text()}")


def _children_named(parent: int, name: str) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        children = [int(word) for word in path.read_text().split()]
        # newer ones are called sshd-session
        return [c for c in children if Path(f"/proc/{c}/comm").read_text().startswith(name)]
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
