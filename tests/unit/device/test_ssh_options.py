"""From the output of ``ssh -G`` to options; no ssh is needed."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.device.connect import connect
from edgekit.device.ssh import config
from edgekit.device.ssh.address import Address
from edgekit.device.ssh.config import Settings, parse
from edgekit.device.ssh.hostkeys import KEY_TYPES, KnownHosts
from edgekit.device.ssh.link import Link
from edgekit.device.ssh.options import HostOptions, home_folder, read, resolve
from edgekit.errors import DeviceError, UsageError


@pytest.fixture
def options(tmp_path):
    """The options of ``board`` by the output of ``ssh -G``."""

    def read_output(text: str, defaults: str = "") -> HostOptions:
        return read(Address("board"), tmp_path, Settings(parse(text), parse(defaults)))

    return read_output


def test_home_is_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path


def test_a_client_that_reports_little(options, tmp_path):
    """Old clients do not have all keys: edgekit has OpenSSH's defaults for the rest."""
    found = options("user bob\nhostname h.example\nport 2200\n")
    assert (found.hostname, found.user, found.port) == ("h.example", "bob", 2200)
    assert found.user_known_hosts[0] == tmp_path / ".ssh" / "known_hosts"
    assert found.global_known_hosts[0] == Path("/etc/ssh/ssh_known_hosts")
    assert tmp_path / ".ssh" / "id_ed25519" in found.identity_files
    assert found.methods == ("publickey", "keyboard-interactive", "password")
    assert found.strict == "ask"
    assert found.not_honoured == found.notes == ()


def test_a_client_that_is_too_old(tmp_path, monkeypatch):
    client = tmp_path / "ssh"
    client.write_text("#!/bin/sh\necho 'unknown option -- G' >&2\nexit 255\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DeviceError, match="unknown option -- G"):
        resolve(Address("board"), tmp_path)


def test_a_client_that_does_not_end(tmp_path, monkeypatch):
    client = tmp_path / "ssh"
    client.write_text("#!/bin/sh\nexec sleep 60\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(config, "CLIENT_LIMIT_S", 0.2)
    with pytest.raises(DeviceError, match="has not ended"):
        resolve(Address("board"), tmp_path)


@pytest.mark.parametrize("device", ["-oProxyCommand=x", "a;b", "$(id)", "x@-F/dev/null"])
def test_a_device_that_no_host_is_called_never_reaches_ssh(device, tmp_path, monkeypatch):
    """Match exec and ProxyCommand run through a shell, with the host's name in them."""
    client = tmp_path / "ssh"
    client.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError):
        connect(device)
    assert not (tmp_path / "called").exists()


def test_file_names_with_spaces(options):
    found = options("userknownhostsfile /a b /c\nidentityfile /my keys/id\n")
    assert found.user_known_hosts == (Path("/a b"), Path("/c"))
    assert found.identity_files == (Path("/my keys/id"),)
    assert options("userknownhostsfile none\nidentityfile none").user_known_hosts == ()


def test_variables(options, monkeypatch):
    monkeypatch.setenv("KEYS", "/keys")
    monkeypatch.delenv("ABSENT", raising=False)
    assert options("identityfile ${KEYS}/a\n").identity_files == (Path("/keys/a"),)
    with pytest.raises(DeviceError, match="ABSENT"):
        options("identityfile ${ABSENT}/a\n")


def test_tokens(options, tmp_path):
    text = "user bob\nhostname h\nport 22\n"
    found = options(f"{text}identityfile ~/%r@%h-%n%%\nproxycommand nc %h %p %q\n")
    assert found.identity_files == (tmp_path / "bob@h-board%",)
    assert found.proxy_command == "nc h 22 %q"


def test_agent(options, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("OTHER", "/run/other")
    assert options("").identity_agent == "/run/agent"
    assert options("identityagent none").identity_agent == ""
    assert options("identityagent $OTHER").identity_agent == "/run/other"
    assert options("identityagent SSH_AUTH_SOCK").identity_agent == "/run/agent"


def test_times_that_are_off_have_our_limits(options):
    """Nothing may wait for ever, whatever is configured."""
    found = options("serveraliveinterval 0\nconnecttimeout none\nserveralivecountmax 0\n")
    assert (found.alive_interval_s, found.alive_count, found.connect_limit_s) == (15, 3, 15)


@pytest.mark.parametrize(
    "line",
    ["PKCS11Provider /lib/p.so", "SecurityKeyProvider /lib/k.so", "ProxyUseFdpass yes",
     "KnownHostsCommand /bin/x", "RevokedHostKeys /keys", "CheckHostIP yes",
     "NoHostAuthenticationForLocalhost yes", "SetEnv A=b", "RequiredRSASize 2048"],
)  # fmt: skip
def test_what_cannot_be_honoured_is_reported(line, options):
    assert options(line + "\n", "requiredrsasize 1024\n").not_honoured == (line,)


@pytest.mark.parametrize(
    "line",
    ["PKCS11Provider none", "ForwardX11 yes", "ControlMaster auto", "LogLevel DEBUG",
     "CanonicalizeHostname true", "AddKeysToAgent yes", "LocalForward 1 x:2", "CheckHostIP no"],
)  # fmt: skip
def test_what_changes_nothing_is_not(line, options):
    assert options(line + "\n").not_honoured == ()


def test_the_clients_own_defaults_are_no_configuration(options):
    """What an old client does by itself is nothing that the user asked for."""
    text = "checkhostip yes\nciphers aes128-ctr,3des-cbc\nidentityfile ~/.ssh/id_rsa\n"
    found = options(text, text)
    assert (found.not_honoured, found.algorithms, found.are_identities_configured) == (
        (),
        {},
        False,
    )


def test_a_port_that_is_none(options):
    with pytest.raises(DeviceError, match="board: 'x' is not a port"):
        options("port x\n")


def test_malformed_hop(options):
    with pytest.raises(DeviceError, match="ProxyJump"):
        options("proxyjump a b\n")


def restricted(options: HostOptions, **algorithms: str) -> Link:
    chosen = replace(options, algorithms={k: tuple(v.split(",")) for k, v in algorithms.items()})
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        link = Link(ours, KnownHosts(chosen).algorithms())
        link.restrict(chosen)
        return link


def test_algorithms_in_the_configured_order(options):
    link = restricted(options(""), ciphers="chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr")
    assert link.preferred_ciphers == ("aes256-ctr", "aes128-ctr")


def test_no_algorithm_is_left(options):
    with pytest.raises(DeviceError, match="allows only chacha20"):
        restricted(options(""), ciphers="chacha20-poly1305@openssh.com")
    with pytest.raises(DeviceError, match="allows only ssh-dss"):
        restricted(options(""), keys="ssh-dss")


def test_known_host_keys_come_first_whatever_the_order(options, tmp_path):
    line = "board ssh-rsa AAAAB3NzaC1yc2E=\n"
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(line)
    every = [name for names in KEY_TYPES.values() for name in names]
    link = restricted(options(""), keys=",".join(every))
    assert link.preferred_keys[:2] == KEY_TYPES["ssh-rsa"]
    assert set(link.preferred_keys) == set(every)
