"""Host keys, against a real server."""

from __future__ import annotations

import subprocess

import pytest
from ssh_server import make_key

from edgekit.errors import HostKeyError

pytestmark = pytest.mark.ssh


def works(transport) -> bool:
    return transport.run(["echo", "hello"]).stdout == b"hello\n"


def fingerprint(key) -> str:
    command = ["ssh-keygen", "-lf", f"{key}.pub"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


def test_known_key_is_accepted_in_silence(server, reach):
    assert works(reach())
    assert reach.said == []


def test_unknown_key_is_refused_with_its_fingerprint(server, reach):
    server.known_hosts.unlink()
    with pytest.raises(HostKeyError) as caught:
        reach()
    assert caught.value.exit_code == 4
    assert fingerprint(server.host_keys["ed25519"]) in caught.value.message
    assert "ssh-ed25519" in caught.value.message
    assert "--accept-new-host-key" in caught.value.hint
    assert not server.known_hosts.exists()


@pytest.mark.parametrize("hashed", ["yes", "no"])
def test_new_key_is_accepted_once_and_stored(hashed, server, reach):
    server.write_config(f"HashKnownHosts {hashed}")
    server.known_hosts.write_text("other ssh-ed25519 AAAA")  # not even its line is ended
    assert works(reach(accept_new_host_key=True))
    assert fingerprint(server.host_keys["ed25519"]) in reach.said[0]
    lines = server.known_hosts.read_text().splitlines()
    assert lines[0] == "other ssh-ed25519 AAAA"
    assert len(lines) == 2
    assert lines[1].startswith("|1|") == (hashed == "yes")
    assert ssh_trusts(server)
    assert works(reach())
    assert len(reach.said) == 1


def ssh_trusts(server) -> bool:
    """What we stored, ssh reads."""
    config = server.home / ".ssh" / "config"
    command = [
        "ssh", "-F", config, "-o", f"UserKnownHostsFile={server.known_hosts}", "-i", server.key,
        "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", server.device, "true",
    ]  # fmt: skip
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_file_and_folder_are_made_for_the_user_alone(server, reach):
    server.known_hosts.unlink()
    place = server.home / "new" / "known"
    server.write_config(f"UserKnownHostsFile {place}")
    assert works(reach(accept_new_host_key=True))
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("option", "is_accepted"),
    [("accept-new", True), ("no", True), ("off", True), ("yes", False), ("ask", False)],
)
def test_strict_host_key_checking(option, is_accepted, server, reach):
    server.known_hosts.unlink()
    server.write_config(f"StrictHostKeyChecking {option}")
    if is_accepted:
        assert works(reach())
        assert server.known_hosts.exists()
    else:
        with pytest.raises(HostKeyError):
            reach()


@pytest.mark.parametrize("options", ["", "StrictHostKeyChecking no"])
def test_changed_key_is_always_refused(options, server, reach):
    other = make_key(server.folder / "other")
    words = (other.parent / "other.pub").read_text().split()
    server.known_hosts.write_text(
        f"# a comment\nbroken line\n[{server.host}]:{server.port} {words[0]} {words[1]}\n"
    )
    server.write_config(options)
    with pytest.raises(HostKeyError) as caught:
        reach(accept_new_host_key=True)
    message = caught.value.message
    assert f"{server.known_hosts}, line 3" in message
    assert fingerprint(other) in message
    assert fingerprint(server.host_keys["ed25519"]) in message
    assert "ssh-keygen -R" in caught.value.hint


def test_another_type_than_the_known_one_is_a_changed_key(make_server, reach):
    server = make_server(kinds=("ed25519",))
    other = make_key(server.folder / "other", "ecdsa")
    words = (other.parent / "other.pub").read_text().split()
    server.known_hosts.write_text(f"[{server.host}]:{server.port} {words[0]} {words[1]}\n")
    with pytest.raises(HostKeyError, match="has changed"):
        reach(accept_new_host_key=True)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_the_known_type_is_asked_for(kind, make_server, reach):
    server = make_server(kinds=("ed25519", "ecdsa", "rsa"))
    server.trust(kind)
    assert works(reach())


def test_revoked_key_is_refused(server, reach):
    line = f"[{server.host}]:{server.port} {server.public_key('ed25519')}\n"
    server.known_hosts.write_text(line + f"@revoked * {server.public_key('ed25519')}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        reach(accept_new_host_key=True)


@pytest.mark.parametrize(
    ("hosts", "is_known"),
    [
        ("[127.0.0.*]:*", True), ("x,[127.0.0.1]:PORT,y", True), ("127.0.0.1", True),
        ("*,![127.0.0.1]:PORT,!127.0.0.1", False),
        ("[127.0.0.1]:1", False), ("[127.0.0.2]:PORT", False),
    ],
)  # fmt: skip
def test_names_and_patterns(hosts, is_known, server, reach):
    hosts = hosts.replace("PORT", str(server.port))
    server.known_hosts.write_text(f"{hosts} {server.public_key('ed25519')} comment\n")
    if is_known:
        assert works(reach())
    else:
        with pytest.raises(HostKeyError):
            reach()


def test_hashed_by_ssh_keygen(server, reach):
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", server.known_hosts], check=True)
    assert server.known_hosts.read_text().startswith("|1|")
    assert works(reach())


def test_alias_stands_for_the_name(server, reach):
    server.known_hosts.write_text(f"the-board {server.public_key('ed25519')}\n")
    server.write_config(alias_options="HostKeyAlias the-board")
    assert works(reach())


def test_several_files_and_the_global_ones(server, reach):
    here, everywhere = server.home / "here", server.home / "everywhere"
    everywhere.write_text(server.known_hosts.read_text())
    server.known_hosts.unlink()
    server.write_config(f"UserKnownHostsFile {here} /absent\nGlobalKnownHostsFile {everywhere}")
    assert works(reach())


def test_authority_alone_does_not_vouch(server, reach):
    server.known_hosts.write_text(f"@cert-authority * {server.public_key('ed25519')}\n")
    with pytest.raises(HostKeyError, match="checks no host certificates"):
        reach()


def test_file_that_cannot_be_written_is_said(server, reach):
    server.known_hosts.unlink()
    (server.home / "file").write_text("")
    server.write_config(f"UserKnownHostsFile {server.home}/file/known_hosts")
    assert works(reach(accept_new_host_key=True))
    assert "cannot be stored" in reach.said[0]


def test_known_to_nobody_and_null(server, reach):
    server.write_config("UserKnownHostsFile /dev/null\nStrictHostKeyChecking no")
    assert works(reach())
