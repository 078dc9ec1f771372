"""How a device is found and reached: names, jump hosts, proxy commands, and what goes wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import closing, suppress

import pytest
from ssh_server import SshServer
from watching import gone, running

from edgekit.errors import DeviceError, HostKeyError

pytestmark = pytest.mark.ssh

RELAY = """
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536): s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536): os.write(1, data)
"""


def works(transport) -> bool:
    return transport.run(["echo", "hello"]).stdout == b"hello\n"


def hop(server: SshServer, name: str, options: str = "") -> str:
    return (
        f"Host {name}\n{options}\n HostName {server.host}\n Port {server.port}\n"
        f" User {server.user}\n HostKeyAlias {name}\n IdentityAgent none\n"
    )


def trust(server: SshServer, *names: str) -> None:
    key = server.public_key("ed25519")
    server.known_hosts.write_text("".join(f"{name} {key}\n" for name in names))


@pytest.mark.parametrize("form", ["board", "{user}@board", "ssh://{user}@{host}:{port}",
                                  "ssh://board", "ssh://{host}:{port}/"])  # fmt: skip
def test_forms_of_a_device(form, server, reach):
    device = form.format(user=server.user, host=server.host, port=server.port)
    transport = reach(device)
    assert transport.name == device
    assert works(transport)


def test_port_and_user_of_the_configuration(server, reach):
    server.write_config(f"Host *\n  Port {server.port}\n  User {server.user}")
    assert works(reach("127.0.0.1"))


def test_ipv6(make_server, reach):
    with closing(socket.socket(socket.AF_INET6)) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    server = make_server("ListenAddress ::1")
    server.known_hosts.write_text(f"[::1]:{server.port} {server.public_key('ed25519')}\n")
    assert works(reach(f"ssh://{server.user}@[::1]:{server.port}"))


def test_options_that_are_not_honoured_are_said(server, reach):
    server.write_config("PKCS11Provider /lib/x.so\nCheckHostIP yes\nForwardX11 yes\nLogLevel DEBUG")
    assert works(reach())
    assert len(reach.said) == 2
    assert "PKCS11Provider /lib/x.so" in reach.said[0]


def test_said_on_stderr(server):
    server.write_config("SetEnv A=b")
    code = "from edgekit.device.connect import connect; connect('board').close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("warning: board: ")
    assert done.stdout == ""


def test_compression_and_chosen_algorithms(server, reach):
    server.write_config(
        "Compression yes\nCiphers aes256-gcm@openssh.com\nMACs ^hmac-sha2-512-etm@openssh.com\n"
        "KexAlgorithms ecdh-sha2-nistp256\nHostKeyAlgorithms +ssh-dss\n"
        "PubkeyAcceptedAlgorithms -rsa-*"
    )
    transport = reach()
    assert works(transport)
    link = transport._connection.link
    assert link.local_cipher == "aes256-gcm@openssh.com"
    assert link.local_compression == "zlib@openssh.com"


def test_algorithms_that_we_have_not(server, reach):
    server.write_config("Ciphers chacha20-poly1305@openssh.com")
    with pytest.raises(DeviceError, match="allows only chacha20"):
        reach()


@pytest.mark.parametrize("jump", ["ProxyJump one,two", "ProxyJump two"])
def test_two_hops(jump, server, reach):
    """The second way, the hop has a hop of its own."""
    two = "ProxyJump one" if jump == "ProxyJump two" else ""
    text = hop(server, "one") + hop(server, "two", two)
    server.write_config(text, alias_options=f"{jump}\nHostKeyAlias board")
    trust(server, "one", "two", "board")
    transport = reach()
    assert works(transport)
    assert len(transport._connection._links) == 3
    data = bytes(2_000_000)
    assert transport.run(["cat"], stdin=data).stdout == data


@pytest.mark.parametrize("unknown", ["one", "two"])
def test_every_hop_is_checked(unknown, server, reach):
    text = hop(server, "one") + hop(server, "two")
    server.write_config(text, alias_options="ProxyJump one,two\nHostKeyAlias board")
    trust(server, *({"one", "two", "board"} - {unknown}))
    with pytest.raises(HostKeyError, match=f"host key of {unknown} is unknown"):
        reach()
    assert works(reach(accept_new_host_key=True))
    assert works(reach())


def test_hop_that_refuses_us(server, make_server, reach):
    other = make_server()
    other.authorized_keys.write_text("")
    text = hop(other, "one", "IdentityFile /absent")
    other.write_config(text, alias_options="ProxyJump one\nHostKeyAlias board")
    trust(other, "one", "board")
    with pytest.raises(DeviceError, match=r"jump host one.*refuses the login"):
        reach()


def test_hop_that_is_not_there(server, reach):
    server.write_config("Host one\n Port 1", alias_options="ProxyJump 127.0.0.1:1")
    with pytest.raises(DeviceError, match=r"jump host 127\.0\.0\.1 cannot be reached.*port 1"):
        reach()


def test_device_that_the_hop_cannot_reach(server, reach):
    text = hop(server, "one")
    server.write_config(text, alias_options="ProxyJump one\nPort 1")
    trust(server, "one")
    with pytest.raises(DeviceError, match=r"board cannot be reached.* from the previous jump host"):
        reach()


def test_hop_that_forbids_forwarding(make_server, reach):
    server = make_server("AllowTcpForwarding no")
    server.write_config(hop(server, "one"), alias_options="ProxyJump one")
    trust(server, "one")
    with pytest.raises(DeviceError, match=r"board cannot be reached.* from the previous jump host"):
        reach()


def test_jump_for_every_host_leads_in_a_circle(server, reach):
    """As with ssh, a jump host is not reached by way of itself."""
    server.write_config("Host *\n ProxyJump one\n" + hop(server, "one"))
    trust(server, "one", f"[{server.host}]:{server.port}")
    assert works(reach())
    server.write_config("Host one\n ProxyJump two\nHost two\n ProxyJump one\nHost *\n"
                        " ProxyJump one")  # fmt: skip
    with pytest.raises(DeviceError, match="circular"):
        reach()


def test_proxy_command(server, reach, tmp_path):
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    command = f"{sys.executable} {relay} %h %p"
    server.write_config(alias_options=f"ProxyCommand {command}")
    transport = reach()
    assert works(transport)
    data = bytes(2_000_000)
    assert transport.run(["cat"], stdin=data).stdout == data
    assert running(str(relay))
    transport.close()
    gone(str(relay))


def test_proxy_command_of_ssh(server, reach):
    config = server.home / ".ssh" / "config"
    command = f"ssh -F {config} -o UserKnownHostsFile={server.known_hosts} -i {server.key} -W %h:%p"
    text = hop(server, "one")
    server.write_config(text, alias_options=f"ProxyCommand {command} one\nHostKeyAlias board")
    trust(server, "one", "board")
    assert works(reach())


@pytest.mark.parametrize(
    ("command", "said"),
    [("echo no way >&2; exit 1", "no way"), ("/no/such/program %h", "not found|No such file"),
     ("true", "did not connect")],
)  # fmt: skip
def test_proxy_command_that_fails(command, said, server, reach, capfd):
    server.write_config(alias_options=f"ProxyCommand {command}")
    with pytest.raises(DeviceError, match=f"ProxyCommand did not connect.*({said})|{said}"):
        reach()
    assert capfd.readouterr().err == ""


def test_name_that_leads_nowhere(server, reach, monkeypatch):
    def look_up(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("edgekit.device.ssh.sockets.socket.getaddrinfo", look_up)
    with pytest.raises(DeviceError, match=r"the name 'no-such-host\.invalid' cannot be resolved"):
        reach("no-such-host.invalid")


def test_refused(server, reach):
    with pytest.raises(DeviceError, match=r"cannot be reached at 127.0.0.1, port 1: .*refused"):
        reach("ssh://127.0.0.1:1")


class Listener:
    """Says ``words`` to whoever connects."""

    def __init__(self, words: bytes | None, holds: bool = False) -> None:
        self._holds = holds or words is None
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._words = words
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                if self._words is not None:
                    sock.recv(100)
                    sock.sendall(self._words)
                if self._holds:
                    self._held.append(sock)
                else:
                    sock.close()

    def close(self) -> None:
        self._sock.close()
        for sock in self._held:
            sock.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not as an SSH server|closed it at once"),
        (b"", "closed it at once"),
        (b"SSH-1.5-old\r\n", "no algorithm in common"),
        (b"SSH-2.0-broken\r\nrubbish rubbish rubbish", "not as an SSH server|closed it"),
        (None, "sent nothing"),
    ],
)
def test_not_an_ssh_server(words, said, server, reach, capfd):
    server.write_config("ConnectTimeout 1")
    with closing(Listener(words)) as listener, pytest.raises(DeviceError, match=said):
        reach(f"ssh://127.0.0.1:{listener.port}")
    assert capfd.readouterr().err == ""


def test_handshake_that_stalls(server, reach, monkeypatch):
    monkeypatch.setattr("edgekit.device.ssh.link.HANDSHAKE_LIMIT_S", 0.5)
    said = pytest.raises(DeviceError, match="did not finish the SSH handshake")
    with closing(Listener(b"SSH-2.0-slow\r\n", holds=True)) as listener, said:
        reach(f"ssh://127.0.0.1:{listener.port}")


def test_errors_are_one_line_each_and_exit_4(server):
    command = [
        sys.executable, "-c",
        "from edgekit.device.connect import connect; from edgekit.errors import EdgekitError\n"
        "try: connect('ssh://127.0.0.1:1')\n"
        "except EdgekitError as e: print(e.exit_code, e.message.count(chr(10)), bool(e.hint))",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "0", "True"]
    assert done.stderr == ""


def test_configuration_of_somebody_else(server, reach):
    (server.home / ".ssh" / "config").chmod(0o666)
    with pytest.raises(DeviceError, match="Bad owner or permissions"):
        reach()


def test_without_an_ssh_client(server, reach, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("edgekit.device.ssh.fallback.SYSTEM_CONFIG", tmp_path / "none")
    assert works(reach())
    assert reach.said == []
    server.write_config("Include ~/.ssh/more")
    assert works(reach())
    (note,) = reach.said
    assert "without an OpenSSH client" in note
    assert "Include" in note
