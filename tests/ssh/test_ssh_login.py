"""Logging in to a real server, by the keys that people have."""

from __future__ import annotations

import os
import subprocess

import pytest
from at_terminal import at_terminal
from ssh_server import make_key

from edgekit.errors import DeviceError

pytestmark = pytest.mark.ssh

FORMS = [
    ("ed25519", "OPENSSH"), ("ecdsa", "OPENSSH"), ("ecdsa", "PEM"), ("rsa", "OPENSSH"),
    ("rsa", "PEM"), ("rsa", "PKCS8"),
]  # fmt: skip
CONNECT = (
    "from edgekit.device.connect import connect\n"
    "t = connect('board')\n"
    "print(t.run(['echo', 'hello']).stdout.decode())\n"
    "t.close()"
)


def works(transport) -> bool:
    return transport.run(["echo", "hello"]).stdout == b"hello\n"


def only(server, key, options: str = "") -> None:
    """The server accepts this key; the client has it for its only one."""
    server.authorize(key)
    server.write_config(alias_options=f"IdentityFile {key}\nIdentitiesOnly yes\n{options}")


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """An ssh-agent of our own. Gives how to add a key to it."""
    place = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", place], stdout=subprocess.DEVNULL)
    while not place.exists():
        assert process.poll() is None

    def add(key) -> None:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(place)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True)

    add.socket = str(place)
    yield add
    process.kill()
    process.wait()


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_kinds_and_formats_of_keys(kind, form, server, reach):
    options = [] if form == "OPENSSH" else ["-m", form]
    only(server, make_key(server.home / "keys" / "key", kind, "", *options))
    assert works(reach())


@pytest.mark.parametrize("name", ["id_ed25519", "id_ecdsa", "id_rsa"])
def test_usual_names(name, server, reach):
    server.key.unlink()
    server.authorize(make_key(server.home / ".ssh" / name, name.removeprefix("id_")))
    assert works(reach())


def test_several_identities_are_tried(server, reach):
    wrong = make_key(server.home / "keys" / "wrong")
    server.write_config(f"IdentityFile {wrong}\nIdentityFile {server.key}\nIdentityFile /absent")
    assert works(reach())


def test_nothing_accepted_says_what_was_tried(server, reach):
    wrong = make_key(server.home / "keys" / "wrong")
    server.write_config(f"IdentityFile {wrong}\nIdentityFile /absent/key")
    with pytest.raises(DeviceError) as caught:
        reach()
    message = caught.value.message
    assert caught.value.exit_code == 4
    assert f"{wrong} (not accepted)" in message
    assert "/absent/key (No such file or directory)" in message
    assert "It accepts: publickey" in message
    assert server.user in message
    assert "ssh-copy-id" in caught.value.hint


def test_no_key_at_all(server, reach):
    server.key.unlink()
    with pytest.raises(DeviceError, match="no key was found"):
        reach()


def test_readable_key_is_refused(server, reach):
    server.key.chmod(0o644)
    with pytest.raises(DeviceError, match=r"others may read it, mode 0644: chmod 600"):
        reach()


def test_file_that_is_no_key(server, reach):
    server.key.write_text("no key\n")
    (server.home / ".ssh" / "id_ed25519.pub").unlink()
    with pytest.raises(DeviceError, match="not a private key"):
        reach()


def test_fido_key_is_said(server, reach):
    """No security key here to make one: a file of its type will do."""
    text = server.key.read_text()
    fake = subprocess.run(
        ["python3", "-c", FAKE_FIDO_KEY], input=text, capture_output=True, text=True, check=True
    ).stdout
    server.key.unlink()
    key = server.home / ".ssh" / "id_ed25519_sk"
    key.write_text(fake)
    key.chmod(0o600)
    public = make_public(fake)
    server.authorized_keys.write_text(public)
    with pytest.raises(DeviceError, match=r"id_ed25519_sk \(a FIDO key: .*through an agent"):
        reach()


FAKE_FIDO_KEY = r"""
import base64, re, struct, sys
def s(data): return struct.pack(">I", len(data)) + data
name = b"sk-ssh-ed25519@openssh.com"
public = s(name) + s(bytes(32)) + s(b"ssh:")
private = bytes(8) + s(name) + s(bytes(32)) + s(b"ssh:") + b"\1" + s(b"handle") + s(b"") + s(b"c")
private += bytes(range(1, 1 + -len(private) % 8))
data = b"openssh-key-v1\0" + s(b"none") + s(b"none") + s(b"") + struct.pack(">I", 1)
data += s(public) + s(private)
print("-----BEGIN OPENSSH PRIVATE KEY-----")
print(base64.encodebytes(data).decode().strip())
print("-----END OPENSSH PRIVATE KEY-----")
"""


def make_public(private: str) -> str:
    import base64

    data = base64.b64decode("".join(private.splitlines()[1:-1]))
    kind = b"sk-ssh-ed25519@openssh.com"
    start = data.index(kind) - 4
    blob = data[start : start + 4 + len(kind) + 4 + 32 + 4 + 4]
    return f"{kind.decode()} {base64.b64encode(blob).decode()}\n"


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_encrypted_key_is_asked_for_once(kind, form, server):
    options = [] if form == "OPENSSH" else ["-m", form]
    key = make_key(server.home / "keys" / "key", kind, "secret words", *options)
    # the same key opens the jump host and the board
    hop = "ProxyJump hop"
    only(server, key, hop)
    config = server.home / ".ssh" / "config"
    extra = config.read_text().replace("Host board", "Host hop").replace(hop, "")
    config.write_text(config.read_text() + extra)
    output, shown = at_terminal(CONNECT, "secret words")
    assert "hello" in output, shown
    assert shown.count("Passphrase") == 1
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("cipher", "said"), [("aes256-gcm@openssh.com", "hello"), ("aes128-ctr", "ssh-keygen -p")]
)
def test_ciphers_of_key_files(cipher, said, server):
    only(server, make_key(server.home / "keys" / "key", "ed25519", "secret", "-Z", cipher))
    output, shown = at_terminal(CONNECT, "secret")
    assert said in output + shown


def test_wrong_passphrase(server):
    only(server, make_key(server.home / "keys" / "key", "ed25519", "secret"))
    output, shown = at_terminal(CONNECT, "wrong")
    assert "the passphrase does not open it" in shown
    assert "hello" not in output


def test_no_question_for_a_key_of_no_use(server):
    """The server is asked before the person is."""
    useless = make_key(server.home / "keys" / "useless", "ed25519", "secret")
    server.write_config(f"IdentityFile {useless}\nIdentityFile {server.key}")
    output, shown = at_terminal(CONNECT)
    assert "hello" in output
    assert "Passphrase" not in shown


def test_encrypted_key_without_a_terminal(server, reach):
    only(server, make_key(server.home / "keys" / "key", "ed25519", "secret"))
    with pytest.raises(DeviceError, match=r"keys/key \(encrypted, and there is no terminal"):
        reach()


def test_batch_mode_asks_nothing(server):
    key = make_key(server.home / "keys" / "key", "ed25519", "secret")
    only(server, key, "BatchMode yes")
    _, shown = at_terminal(CONNECT)
    assert "no terminal" in shown
    assert "Passphrase of" not in shown


def test_agent(agent, server, reach, monkeypatch):
    key = make_key(server.home / "keys" / "key", "ed25519", "")
    agent(key)
    server.authorize(key)
    key.unlink()
    server.write_config(alias_options=f"IdentityAgent {agent.socket}")
    assert works(reach())
    server.write_config(alias_options="IdentityAgent SSH_AUTH_SOCK")
    monkeypatch.setenv("SSH_AUTH_SOCK", agent.socket)
    assert works(reach())
    monkeypatch.setenv("OUR_AGENT", agent.socket)
    monkeypatch.delenv("SSH_AUTH_SOCK")
    server.write_config(alias_options="IdentityAgent $OUR_AGENT")
    assert works(reach())


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_in_the_agent(kind, agent, server, reach):
    key = make_key(server.home / "keys" / "key", kind)
    agent(key)
    server.authorize(key)
    key.unlink()
    server.write_config(alias_options=f"IdentityAgent {agent.socket}")
    assert works(reach())


def test_agent_opens_an_encrypted_file(agent, server, reach):
    key = make_key(server.home / "keys" / "key")
    agent(key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True)
    only(server, key, f"IdentityAgent {agent.socket}")
    assert works(reach())


def test_identities_only_leaves_the_agents_others_out(agent, make_server, reach):
    """With many keys in the agent, the server hangs up before the right one."""
    server = make_server("MaxAuthTries 3")
    for number in range(5):
        agent(make_key(server.home / "keys" / f"other{number}"))
    agent(server.key)
    server.key.rename(server.home / "keys" / "right")
    server.write_config(alias_options=f"IdentityAgent {agent.socket}")
    with pytest.raises(DeviceError, match="Too many authentication failures") as caught:
        reach()
    assert "IdentitiesOnly" in caught.value.hint
    server.write_config(
        alias_options=f"IdentityAgent {agent.socket}\nIdentitiesOnly yes\n"
        f"IdentityFile {server.home}/keys/right"
    )
    assert works(reach())


def test_agent_that_is_gone(server, reach, tmp_path):
    server.key.unlink()
    server.write_config(alias_options=f"IdentityAgent {tmp_path}/gone")
    with pytest.raises(DeviceError, match=r"the agent at .*/gone \(No such file"):
        reach()


@pytest.mark.parametrize("place", ["beside", "named", "agent"])
def test_certificate(place, agent, make_server, reach, tmp_path):
    authority = make_key(tmp_path / "authority")
    server = make_server(f"TrustedUserCAKeys {authority}.pub")
    key = make_key(server.home / "keys" / "key")
    command = ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", server.user, f"{key}.pub"]
    subprocess.run(command, check=True)
    options = "" if place == "agent" else f"IdentityFile {key}"
    certificate = server.home / "keys" / "key-cert.pub"
    if place == "named":
        options += f"\nCertificateFile {certificate.rename(tmp_path / 'cert.pub')}"
    if place == "agent":
        agent(key)
        options = f"IdentityAgent {agent.socket}"
    server.authorized_keys.write_text("")
    server.write_config(alias_options=options)
    assert works(reach())


def test_two_keys_are_wanted(make_server, reach):
    server = make_server("AuthenticationMethods publickey,publickey")
    second = make_key(server.home / ".ssh" / "id_ecdsa", "ecdsa")
    server.authorize(server.key, second)
    assert works(reach())


def test_key_login_is_not_allowed(make_server, reach):
    make_server("PubkeyAuthentication no", "KbdInteractiveAuthentication yes")
    with pytest.raises(DeviceError, match=r"there is no terminal.*It accepts: keyboard-int"):
        reach()
