"""Login, by the methods that the server and the user's configuration allow."""

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
    """A login to one host. ``_methods``: what the server still accepts; None once logged in."""

    def __init__(self, link: Link, options: HostOptions, who: str, ask: Ask | None) -> None:
        self._link = link
        self._who = who
        self._options = options
        self._ask = ask
        self._tried: list[str] = []
        self._failed: set[str] = set()
        self._methods: list[str] | None = []

    def run(self) -> None:
        attempts = {
            "publickey": self._by_key,
            "keyboard-interactive": self._by_questions,
            "password": self._by_password,
        }
        self._methods = self._attempt(lambda: self._link.auth_none(self._options.user))
        while self._methods is not None:
            accepted = self._methods
            method = next(
                (m for m in self._options.methods if m in accepted and m not in self._failed), None
            )
            if method is None:
                raise self._refused_error()
            attempts[method]()

    def _attempt(self, log_in: Any) -> list[str] | None:
        """The methods that the server still accepts. Raises an error that ends the connection."""
        try:
            remaining = log_in()
        except paramiko.BadAuthenticationType as error:
            return list(error.allowed_types)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if "timeout" in str(error).lower():
                self._link.end("it stopped answering")
            if not self._link.is_active():
                raise
            return self._methods
        return list(remaining) or None

    def _by_key(self) -> None:
        before = self._methods
        with closing(Identities(self._options, self._ask)) as identities:
            for identity in identities:
                self._offer(identity)
                if self._methods != before:
                    break
            else:
                self._failed.add("publickey")
            self._tried += identities.skipped

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
        before = self._methods
        self._methods = self._attempt(lambda: self._link.auth_publickey(self._options.user, key))
        if self._methods == before:
            self._tried.append(f"{identity.label} (not accepted)")

    def _is_welcome(self, identity: Identity) -> bool:
        """Ask the server first, so that nobody types the passphrase of a key that it rejects."""
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
        before = self._methods
        self._methods = self._attempt(
            lambda: self._link.auth_password(self._options.user, password, fallback=False)
        )
        if self._methods == before:
            self._tried.append("the password (not accepted)")

    def _by_questions(self) -> None:
        """Answer the server's questions. They arrive in paramiko's thread; this one prompts."""
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

        before = self._methods
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
        self._methods = result
        if self._methods == before:
            self._tried.append("answers to its questions (not accepted)")

    def _answer(self, prompts: Prompts, ask: Ask) -> list[str]:
        place = f"({self._options.user}@{self._options.hostname}) "
        return [ask(place + text) or "" for text, _ in prompts[2]]

    def _refused_error(self) -> DeviceError:
        user = self._options.user
        tried = "; ".join(self._tried) or "nothing: no key was found"
        methods = ", ".join(self._methods or []) or "nothing more"
        return DeviceError(
            f"{self._who} refuses the login of {user}. Tried: {tried}. It accepts: {methods}",
            f"ssh-copy-id {user}@{self._options.alias} installs your key there; ssh-add unlocks an"
            " encrypted key for this session",
        )


def log_in(link: Link, options: HostOptions, who: str, ask: Ask | None) -> None:
    """Log in. ``ask``: None if there is no terminal.

    Raises DeviceError, with the methods tried and accepted, if the login fails; paramiko's errors
    if the connection ends.
    """
    _Login(link, options, who, ask).run()
