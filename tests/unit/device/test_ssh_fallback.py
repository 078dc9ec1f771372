"""The configuration where no OpenSSH client is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.device.ssh import fallback
from edgekit.device.ssh.address import Address, parse_address
from edgekit.device.ssh.options import HostOptions, resolve
from edgekit.errors import DeviceError


@pytest.fixture
def options(tmp_path, monkeypatch):
    """The options of a device by a configuration, without an ssh on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(fallback, "SYSTEM_CONFIG", tmp_path / "system")
    (tmp_path / ".ssh").mkdir()

    def read(text: str, device: str = "board") -> HostOptions:
        (tmp_path / ".ssh" / "config").write_text(text)
        return resolve(parse_address(device), tmp_path)

    return read


def test_no_files_at_all(options, tmp_path):
    found = resolve(Address("Board", "bob"), tmp_path)
    assert (found.alias, found.hostname, found.user, found.port) == ("Board", "board", "bob", 22)
    assert found.user_known_hosts[0] == tmp_path / ".ssh" / "known_hosts"
    assert tmp_path / ".ssh" / "id_ed25519" in found.identity_files
    assert not found.are_identities_configured
    assert found.notes == ()


def test_what_paramiko_knows(options, tmp_path):
    found = options(
        "Host other\n User o\nHost bo*\n HostName h.example\n User bob\n Port 2200\n"
        " IdentityFile ~/%r\n IdentityFile /k/b\n IdentitiesOnly yes\n ProxyJump a@one:2201\n"
        " UserKnownHostsFile ~/known /other\n ConnectTimeout 7\n Ciphers aes256-ctr\n"
        "Match host h.example user bob\n StrictHostKeyChecking accept-new\n"
    )
    assert (found.hostname, found.user, found.port) == ("h.example", "bob", 2200)
    assert found.identity_files == (tmp_path / "bob", Path("/k/b"))
    assert found.are_identities_configured
    assert found.identities_only
    assert found.proxy_jump == (Address("one", "a", 2201),)
    assert found.user_known_hosts == (tmp_path / "known", Path("/other"))
    assert (found.connect_limit_s, found.strict) == (7, "accept-new")
    assert found.algorithms == {"ciphers": ("aes256-ctr",)}
    assert found.notes == ()


def test_the_argument_comes_first(options):
    found = options("User bob\nPort 2200\n", "ssh://alice@board:2222")
    assert (found.user, found.port) == ("alice", 2222)


def test_the_users_file_comes_before_the_machines(options, tmp_path):
    (tmp_path / "system").write_text("User all\nPort 9\nSendEnv LANG LC_*\n")
    found = options("User me\n")
    assert (found.user, found.port, found.notes, found.not_honoured) == ("me", 9, (), ())


def test_no_proxy_command(options):
    assert options("ProxyCommand none\n").proxy_command is None
    assert options("ProxyCommand nc %h %p # all of it\n").notes == ()


@pytest.mark.parametrize(
    ("text", "gap"),
    [("Match !exec=x\n User a\n", "Match exec"), ("Include conf.d/*\n", "Include"),
     ("include = a\n", "Include"),
     ("Match host x tagged y\n User a\n", "Match tagged"), ("Ciphers +3des-cbc\n", "Ciphers +3des"),
     ("ConnectTimeout 1m\n", "ConnectTimeout 1m"), ("User bob # or so\n", "a comment")],
)  # fmt: skip
def test_a_note_names_what_is_not_known(text, gap, options, tmp_path):
    (note,) = options(text).notes
    assert gap in note
    assert str(tmp_path / ".ssh" / "config") in note
    assert options(text).algorithms == {}


def test_file_that_others_may_write(options, tmp_path):
    options("User a\n")
    (tmp_path / ".ssh" / "config").chmod(0o620)
    with pytest.raises(DeviceError, match="others can write it"):
        resolve(Address("x"), tmp_path)


@pytest.mark.parametrize("text", ["User\n", "Port x\n", "Match host\n", 'Host "a\n'])
def test_files_that_cannot_be_read(text, options):
    with pytest.raises(DeviceError, match="the ssh configuration"):
        options(text)


def test_match_exec_runs_nothing(options, tmp_path):
    found = options(f"Match host board exec 'touch {tmp_path}/ran'\n User no\nMatch all\n Port 7\n")
    assert (found.user != "no", found.port) == (True, 7)
    assert "Match exec" in found.notes[0]
    assert not (tmp_path / "ran").exists()
