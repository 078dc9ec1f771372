"""Who are we: logs in by the ways that the server and the user's configuration allow."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Any

import paramiko

from edgekit.device.ssh.keys import Ask, Identities, Identity, Unusable
from edgekit.device.ssh.link import Link
from edgekit.device.ssh.options import HostOptions
from edgekit.device.ssh.paramiko_private import Probe
from edgekit.errors import DeviceError

Prompts = tuple[str, str, Sequence[tuple[str, bool]]]


class _Login:
    """One host's login. ``ways`` is what the server still accepts; None when we are in."""

    def __init__(self, link: Link, options: HostOptions, who: str, ask: Ask | None) -> None:
        self._link = link
        self._who = who
        self._options = options
        self._ask = ask
        self._tried: list[str] = []
        self._failed: set[str] = set()
        self._ways: list[str] | None = []

    def run(self) -> None:
        attempts = {
            "publickey": self._by_key,
            "keyboard-interactive": self._by_questions,
            "password": self._by_password,
        }
        self._ways = self._attempt(lambda: self._link.auth_none(self._options.user))
        while self._ways is not None:
            ways = self._ways
            method = next(
                (m for m in self._options.methods if m in ways and m not in self._failed), None
            )
            if method is None:
                raise self._refused()
            attempts[method]()

    def _attempt(self, log_in: Any) -> list[str] | None:
        """What is still to do after an attempt. Raises what ends the connection."""
        try:
            left = log_in()
        except paramiko.BadAuthenticationType as error:
            return list(error.allowed_types)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if "timeout" in str(error).lower():
                self._link.end("it stopped answering")
            if not self._link.is_active():
                raise
            return self._ways
        return list(left) or None

    def _by_key(self) -> None:
        before = self._ways
        with closing(Identities(self._options, self._ask)) as identities:
            for identity in identities:
                self._offer(identity)
                if self._ways != before:
                    break
            else:
                self._failed.add("publickey")
            self._tried += identities.said

    def _offer(self, identity: Identity) -> None:
        try:
            if identity.public and not self._is_welcome(identity):
                self._tried.append(f"{identity.label} (not accepted)")
                return
            key = identity.load()
        except Unusable as why:
            self._tried.append(f"{identity.label} ({why})")
            return
        if identity.certificate:
            key.public_blob = identity.certificate
        before = self._ways
        self._ways = self._attempt(lambda: self._link.auth_publickey(self._options.user, key))
        if self._ways == before:
            self._tried.append(f"{identity.label} (not accepted)")

    def _is_welcome(self, identity: Identity) -> bool:
        """Ask before signing: nobody should type a passphrase for a key that is of no use."""
        certificate, public = identity.certificate, identity.public
        assert public is not None
        kind, data = (
            (certificate.key_type, certificate.key_blob)
            if certificate
            else (public.kind, public.data)
        )
        probe = self._link.auth_handler = Probe(self._link, kind, data)
        return probe.ask(self._options.user)

    def _by_password(self) -> None:
        self._failed.add("password")
        if self._ask is None:
            self._tried.append("a password (there is no terminal to ask for it)")
            return
        password = self._ask(f"Password of {self._options.user}@{self._options.hostname}: ") or ""
        before = self._ways
        self._ways = self._attempt(
            lambda: self._link.auth_password(self._options.user, password, fallback=False)
        )
        if self._ways == before:
            self._tried.append("the password (not accepted)")

    def _by_questions(self) -> None:
        """The server's questions arrive in paramiko's thread; a terminal is asked from ours."""
        self._failed.add("keyboard-interactive")
        ask = self._ask
        if ask is None:
            self._tried.append("answers to its questions (there is no terminal to ask for them)")
            return
        questions: SimpleQueue[Prompts] = SimpleQueue()
        answers: SimpleQueue[list[str]] = SimpleQueue()
        outcome: SimpleQueue[Any] = SimpleQueue()

        def reply(title: str, text: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
            questions.put((title, text, prompts))
            return answers.get()

        def log_in() -> None:
            try:
                outcome.put(
                    self._attempt(lambda: self._link.auth_interactive(self._options.user, reply))
                )
            except Exception as error:
                outcome.put(error)

        before = self._ways
        threading.Thread(target=log_in, daemon=True).start()
        while True:
            try:
                result = outcome.get(timeout=0.05)
                break
            except Empty:
                if not questions.empty():
                    answers.put(self._answer(questions.get(), ask))
        if isinstance(result, Exception):
            raise result
        self._ways = result
        if self._ways == before:
            self._tried.append("answers to its questions (not accepted)")

    def _answer(self, prompts: Prompts, ask: Ask) -> list[str]:
        place = f"({self._options.user}@{self._options.hostname}) "
        return [ask(place + text) or "" for text, _ in prompts[2]]

    def _refused(self) -> DeviceError:
        user = self._options.user
        tried = "; ".join(self._tried) or "nothing: no key was found"
        ways = ", ".join(self._ways or []) or "nothing more"
        return DeviceError(
            f"{self._who} does not let {user} in. Tried: {tried}. It accepts: {ways}",
            f"ssh-copy-id {user}@{self._options.alias} puts your key there; ssh-add opens an"
            " encrypted key for this session",
        )


def log_in(link: Link, options: HostOptions, who: str, ask: Ask | None) -> None:
    """``ask`` is None where nobody can be asked. Raises DeviceError: nothing was accepted, with
    what was tried and what would be; paramiko's errors where the connection ends.
    """
    _Login(link, options, who, ask).run()
