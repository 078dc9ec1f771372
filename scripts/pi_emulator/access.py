"""Keys and SSH configuration of one machine, made when it boots and gone when it stops."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pi_emulator.common import run

ROOT, PI = 0, 1000
SECTOR = 512


def make_keys(folder: Path, name: str, port: int) -> None:
    """Write into ``folder``: the user's key, known_hosts, ssh_config, and the guest's seed.

    The seed is a raw disk: an archive that the guest unpacks over its root, with its host keys,
    its name, and the one key that opens it, for pi and for root.
    """
    user_key = folder / "id_ed25519"
    comment = f"edgekit-{name}"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(user_key)])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        keys = Path(scratch) / "etc/ssh"
        keys.mkdir(parents=True)
        run(["ssh-keygen", "-q", "-A", "-f", scratch])
        public = sorted(keys.glob("*.pub"))
        known = "".join(f"[127.0.0.1]:{port} {_key(path)}\n" for path in public)
        (folder / "known_hosts").write_text(known)
        _write_seed(folder / "seed.tar", name, keys, user_key.with_suffix(".pub").read_bytes())
    (folder / "ssh_config").write_text(_ssh_config(folder, name, port))


def _key(public: Path) -> str:
    """Type and key, without the comment, which names this host."""
    return " ".join(public.read_text().split()[:2])


def _write_seed(path: Path, name: str, keys: Path, authorized: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as seed:
        _add(seed, "etc/hostname", f"{name}\n".encode(), ROOT, 0o644)
        for key in sorted(keys.iterdir()):
            mode = 0o644 if key.suffix == ".pub" else 0o600
            _add(seed, f"etc/ssh/{key.name}", key.read_bytes(), ROOT, mode)
        for home, owner in (("root", ROOT), ("home/pi", PI)):
            _add(seed, f"{home}/.ssh", None, owner, 0o700)
            _add(seed, f"{home}/.ssh/authorized_keys", authorized, owner, 0o600)
    size = path.stat().st_size
    os.truncate(path, -(-size // SECTOR) * SECTOR)


def _add(seed: tarfile.TarFile, name: str, data: bytes | None, owner: int, mode: int) -> None:
    """A file, or a folder where ``data`` is None."""
    entry = tarfile.TarInfo(name)
    entry.uid = entry.gid = owner
    entry.mode = mode
    if data is None:
        entry.type = tarfile.DIRTYPE
    entry.size = len(data or b"")
    seed.addfile(entry, io.BytesIO(data or b""))


def _ssh_config(folder: Path, name: str, port: int) -> str:
    place = str(folder).replace("%", "%%")
    return (
        f"Host {name}\n"
        f"    HostName 127.0.0.1\n"
        f"    Port {port}\n"
        f"    User pi\n"
        f'    IdentityFile "{place}/id_ed25519"\n'
        f"    IdentitiesOnly yes\n"
        f'    UserKnownHostsFile "{place}/known_hosts"\n'
        f"    StrictHostKeyChecking yes\n"
    )


@dataclass(frozen=True)
class UserConfig:
    """~/.ssh/config, as far as one line at its top goes. ``~`` is $HOME."""

    machines: Path

    @property
    def line(self) -> str:
        """Takes in all machines of a folder, those that boot later too."""
        return f'Include "{self.machines}/*/ssh_config"'

    @property
    def path(self) -> Path:
        return Path.home() / ".ssh" / "config"

    def is_installed(self) -> bool:
        return self.path.is_file() and self.line in self.path.read_text().splitlines()

    def install(self) -> bool:
        """Put the line at the top: further down it would belong to the host above it.

        False: it stood there before.
        """
        if self.is_installed():
            return False
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        before = self.path.read_text() if self.path.is_file() else ""
        self._write(f"{self.line}\n{before}")
        return True

    def uninstall(self) -> bool:
        """Take the line out and leave all else as it is. False: it was not there."""
        if not self.is_installed():
            return False
        lines = self.path.read_text().splitlines(keepends=True)
        rest = "".join(line for line in lines if line.rstrip("\r\n") != self.line)
        self._write(rest)
        return True

    def _write(self, text: str) -> None:
        target = self.path.resolve()  # it may be a link into a folder of settings
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        draft = target.with_name(f".{target.name}.edgekit")
        draft.write_text(text)
        draft.chmod(mode)
        draft.replace(target)
