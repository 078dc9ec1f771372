"""Passwords, questions, and several steps, with paramiko's own server on the other side."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import replace

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_PARTIALLY_SUCCESSFUL, AUTH_SUCCESSFUL

from edgekit.device.ssh.address import Address
from edgekit.device.ssh.auth import log_in
from edgekit.device.ssh.config import Settings
from edgekit.device.ssh.hostkeys import KEY_TYPES
from edgekit.device.ssh.link import Link
from edgekit.device.ssh.options import read
from edgekit.errors import DeviceError

SECRET = "right"


class Server(paramiko.ServerInterface):
    """Lets in by ``ways``, one after the other."""

    def __init__(self, *ways: str) -> None:
        self.ways = list(ways)
        self.asked: list[str] = []

    def get_allowed_auths(self, username):
        return ",".join(self.ways)

    def check_auth_none(self, username):
        return AUTH_FAILED

    def check_auth_password(self, username, password):
        return self._step("password", password == SECRET)

    def check_auth_publickey(self, username, key):
        return AUTH_FAILED

    def check_auth_interactive(self, username, submethods):
        return paramiko.InteractiveQuery("", "", ("Password: ", False), ("Code: ", True))

    def check_auth_interactive_response(self, responses):
        return self._step("keyboard-interactive", responses == [SECRET, "123"])

    def _step(self, way: str, is_right: bool):
        if not is_right or way not in self.ways:
            return AUTH_FAILED
        self.ways.remove(way)
        return AUTH_PARTIALLY_SUCCESSFUL if self.ways else AUTH_SUCCESSFUL


@pytest.fixture(scope="module")
def host_key():
    return paramiko.RSAKey.generate(2048)


@pytest.fixture
def meet(host_key, tmp_path, monkeypatch):
    """Log in to a Server. ``answers``: what a person would answer to which question."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    ended = []

    def log(server: Server, answers: dict[str, str] | None, **changes) -> Link:
        ours, theirs = socket.socketpair()
        side = paramiko.Transport(theirs)
        side.add_server_key(host_key)
        side.start_server(event=threading.Event(), server=server)
        link = Link(ours, [a for algorithms in KEY_TYPES.values() for a in algorithms])
        ended.extend([link, side])
        link.start_client()
        options = replace(read(Address("board", "bob"), tmp_path, Settings({}, {})), **changes)

        def ask(question: str) -> str | None:
            server.asked.append(question)
            return next((text for part, text in (answers or {}).items() if part in question), None)

        log_in(link, options, "board", None if answers is None else ask)
        return link

    yield log
    for side in ended:
        side.close()


def test_password(meet):
    server = Server("password")
    assert meet(server, {"Password": SECRET}).is_authenticated()
    assert server.asked == ["Password of bob@board: "]


def test_wrong_password_is_asked_once(meet):
    server = Server("password")
    with pytest.raises(DeviceError, match="the password \\(not accepted\\)"):
        meet(server, {"Password": "wrong"})
    assert len(server.asked) == 1


def test_questions(meet):
    server = Server("keyboard-interactive", "never")
    server.ways = ["keyboard-interactive"]
    assert meet(server, {"Password": SECRET, "Code": "123"}).is_authenticated()
    assert [question.rpartition(") ")[2] for question in server.asked] == ["Password: ", "Code: "]


def test_wrong_answers(meet):
    with pytest.raises(DeviceError, match="answers to its questions \\(not accepted\\)"):
        meet(Server("keyboard-interactive"), {"Password": SECRET, "Code": "0"})


def test_two_steps(meet):
    server = Server("password", "keyboard-interactive")
    assert meet(server, {"Password": SECRET, "Code": "123"}).is_authenticated()


@pytest.mark.parametrize("way", ["password", "keyboard-interactive"])
def test_nobody_to_ask(way, meet):
    server = Server(way)
    with pytest.raises(DeviceError, match="there is no terminal"):
        meet(server, None)
    assert server.asked == []


def test_ways_that_the_configuration_forbids(meet):
    server = Server("password")
    with pytest.raises(DeviceError, match="It accepts: password"):
        meet(server, {"Password": SECRET}, methods=("publickey",))
    assert server.asked == []


def test_ways_that_we_do_not_know_are_named(meet):
    with pytest.raises(DeviceError, match="It accepts: gssapi-with-mic"):
        meet(Server("gssapi-with-mic"), {"Password": SECRET})
