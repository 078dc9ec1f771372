"""Private keys: in files, and in an agent."""

from __future__ import annotations

import base64
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from paramiko.message import Message
from paramiko.pkey import OPENSSH_AUTH_MAGIC, PublicBlob

from edgekit.device.ssh.hostkeys import KEY_TYPES, HostKey, parse_key
from edgekit.device.ssh.options import HostOptions
from edgekit.device.ssh.paramiko_private import Agent

# An agent may ask the key's owner for a confirmation.
AGENT_LIMIT_S = 120.0
# Asks the user for a passphrase or a password; None if the user gives none.
Ask = Callable[[str], str | None]


class Unusable(Exception):  # noqa: N818 - a skipped key is no error
    """A key that is skipped; the text is the reason."""


@dataclass
class Identity:
    """A key to offer. ``load`` reads the private key and raises Unusable.

    ``public``: None if unknown; else the server is asked whether it accepts it. ``certificate``:
    sent with the key.
    """

    label: str
    public: HostKey | None
    load: Callable[[], Any]
    certificate: PublicBlob | None = None


class Identities:
    """The keys of one host's options, in the order in which OpenSSH offers them.

    ``skipped`` collects the skipped keys, with the reasons.
    """

    def __init__(self, options: HostOptions, ask: Ask | None) -> None:
        self._options = options
        self._ask = ask
        self._agent: Agent | None = None
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Identity]:
        """Keys in both files and agent, then the agent's others, then the files' others.

        Each key is preceded by its certificates.
        """
        files = [f for path in self._options.identity_files if (f := self._file(path))]
        agent = self._agent_identities()
        in_files = {f.public.data for f in files if f.public}
        in_agent = {a.public.data: a for a in agent if a.public}
        first = [in_agent[f.public.data] for f in files if f.public and f.public.data in in_agent]
        others = [a for a in agent if a.public and a.public.data not in in_files]
        rest = [f for f in files if not (f.public and f.public.data in in_agent)]
        order = [*first, *([] if self._options.identities_only else others), *rest]
        certificates = self._certificates()
        for identity in order:
            for certificate in certificates:
                if identity.public and _certifies(certificate, identity.public):
                    label = f"{identity.label} with its certificate"
                    yield Identity(label, identity.public, identity.load, certificate)
            yield identity

    def close(self) -> None:
        if self._agent:
            self._agent.close()

    def _agent_identities(self) -> list[Identity]:
        if not self._options.identity_agent:
            return []
        try:
            self._agent = Agent(self._options.identity_agent, AGENT_LIMIT_S)
        except (OSError, paramiko.SSHException) as error:
            why = getattr(error, "strerror", None) or error
            self.skipped.append(f"the agent at {self._options.identity_agent} ({why})")
            return []
        return [
            Identity(
                f"the agent's key {key.comment or key.get_name()}",
                HostKey(key.get_name(), key.blob),
                partial(_unchanged, key),
            )
            for key in self._agent.get_keys()
        ]

    def _file(self, path: Path) -> Identity | None:
        """The key in a file; None if it cannot be used, with an entry in ``skipped``."""
        try:
            status = path.stat()
            text = path.read_bytes()
        except OSError as error:
            if self._options.are_identities_configured:
                self.skipped.append(f"{path} ({error.strerror})")
            return None
        if status.st_uid == os.getuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            self.skipped.append(f"{path} (others may read it, mode {mode:04o}: chmod 600 {path})")
            return None
        return Identity(str(path), _public_part(path, text), lambda: self._load(path, text))

    def _load(self, path: Path, text: bytes) -> Any:
        try:
            return read_private_key(text, None)
        except NeedsPassphrase:
            if self._ask is None:
                raise Unusable(
                    "encrypted, and there is no terminal to ask for its passphrase"
                ) from None
        passphrase = self._ask(f"Passphrase of {path}: ") or ""
        try:
            return read_private_key(text, passphrase.encode())
        except (NeedsPassphrase, ValueError):
            raise Unusable("the passphrase does not open it") from None

    def _certificates(self) -> list[PublicBlob]:
        configured = list(self._options.certificate_files)
        default = [Path(f"{path}-cert.pub") for path in self._options.identity_files]
        certificates = []
        for path in [*configured, *(path for path in default if path.exists())]:
            try:
                certificates.append(PublicBlob.from_file(str(path)))
            except (OSError, ValueError) as error:
                self.skipped.append(f"{path} ({error})")
        return certificates


def _unchanged(key: Any) -> Any:
    return key


class NeedsPassphrase(Exception):  # noqa: N818
    pass


def read_private_key(text: bytes, passphrase: bytes | None) -> Any:
    """A paramiko key. Raises NeedsPassphrase, Unusable; ValueError for a wrong passphrase.

    paramiko reads neither PKCS#8 nor all ciphers. So cryptography reads the file and writes it
    in a form that paramiko reads.
    """
    is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in text
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(text, passphrase)
    except TypeError:
        raise NeedsPassphrase from None
    except UnsupportedAlgorithm:
        raise Unusable(_unsupported(text)) from None
    except ValueError:
        if passphrase is not None:
            raise
        if _is_encrypted(text):
            raise NeedsPassphrase from None
        raise Unusable("not a private key that edgekit can read") from None
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    kinds = {"RSA": paramiko.RSAKey, "EC": paramiko.ECDSAKey, "Ed25519": paramiko.Ed25519Key}
    kind = next((k for name, k in kinds.items() if type(key).__name__.startswith(name)), None)
    if kind is None:
        raise Unusable("edgekit signs with ed25519, ECDSA and RSA only")
    return kind.from_private_key(io.StringIO(plain))


def _unsupported(text: bytes) -> str:
    public = _public_of_openssh(text)
    if public and public.kind.startswith("sk-"):
        return "a FIDO key: edgekit uses those only through an agent (ssh-add)"
    if public and public.kind in KEY_TYPES:
        return "edgekit does not support its encryption: ssh-keygen -p encrypts it again"
    return "edgekit signs with ed25519, ECDSA and RSA only"


def _public_part(path: Path, text: bytes) -> HostKey | None:
    """The public key of a private key file, which may be encrypted."""
    if public := _public_of_openssh(text):
        return public
    try:
        words = Path(f"{path}.pub").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        words = []
    if len(words) >= 2 and (public := parse_key(words[0], words[1])):
        return public
    try:
        key = read_private_key(text, None)
    except (NeedsPassphrase, Unusable, ValueError):
        return None
    return HostKey(key.get_name(), key.asbytes())


def _public_of_openssh(text: bytes) -> HostKey | None:
    """The public key in a file of OpenSSH's format, which stores it unencrypted."""
    message = _open_header(text)
    if message is None:
        return None
    message.get_string(), message.get_string(), message.get_string(), message.get_int()
    data = message.get_binary()
    kind = Message(data).get_binary().decode(errors="replace")
    return HostKey(kind, data) if kind else None


def _is_encrypted(text: bytes) -> bool:
    message = _open_header(text)
    if message is None:
        return b"ENCRYPTED" in text
    return bool(message.get_binary() != b"none")


def _open_header(text: bytes) -> Message | None:
    body = re.search(
        b"BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", text.replace(b"\r", b""), re.DOTALL
    )
    if not body:
        return None
    try:
        data = io.BytesIO(base64.b64decode(body[1]))
    except ValueError:
        return None
    if data.read(len(OPENSSH_AUTH_MAGIC)) != OPENSSH_AUTH_MAGIC:
        return None
    return Message(data.read())


def _certifies(certificate: PublicBlob, public: HostKey) -> bool:
    """Whether a certificate is for a key. It has its type, a nonce, then the key's fields."""
    if certificate.key_type != f"{public.kind}-cert-v01@openssh.com":
        return False
    message = Message(certificate.key_blob)
    message.get_string(), message.get_string()
    fields = public.data[4 + len(public.kind) :]
    return bool(message.get_remainder().startswith(fields))
