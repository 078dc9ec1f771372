"""Servers of their own for tests that change them, and who connects to them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest
from ssh_server import SshServer
from watching import running

from edgekit.device.connect import connect


@pytest.fixture
def make_server(tmp_path, monkeypatch):
    """Start a server and make its client's home ours."""
    started = []

    def make(*options: str, **settings) -> SshServer:
        server = SshServer(tmp_path / f"server{len(started)}", *options, **settings)
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        server.start()
        started.append(server)
        return server

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def server(make_server) -> SshServer:
    return make_server()


@pytest.fixture
def reach():
    """Connect; what was said in passing is in ``reach.said``. Closed afterwards."""
    transports = []

    def connected(device: str = SshServer.device, **options):
        transport = connect(device, say=connected.said.append, **options)
        transports.append(transport)
        return transport

    connected.said = []
    yield connected
    for transport in transports:
        transport.close()


@pytest.fixture
def transport(ssh_device, reach):
    """The session's server, connected."""
    return reach(ssh_device)


@pytest.fixture
def mark(tmp_path):
    """Stands in the command lines of what a test starts on the other side."""
    text = f"mark-{tmp_path.name}-{os.getpid()}"
    yield text
    for pid in running(text):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
