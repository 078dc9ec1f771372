"""Options of ~/.ssh/config, where no ssh is needed to know what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.device.ssh.address import Address
from edgekit.device.ssh.algorithms import select
from edgekit.device.ssh.config import Source
from edgekit.device.ssh.connection import find_route
from edgekit.device.ssh.options import HostOptions, home_folder, resolve
from edgekit.errors import DeviceError


@pytest.fixture
def options(tmp_path):
    """The options of ``board`` by a configuration file."""

    def read(text: str, host: str = "board") -> HostOptions:
        path = tmp_path / ".ssh" / "config"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return resolve(Address(host), tmp_path, [Source(path, True)])

    return read


def test_home_is_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path


def test_no_files_at_all(tmp_path):
    found = resolve(Address("board", "bob"), tmp_path, [Source(tmp_path / "none", True)])
    assert (found.hostname, found.user, found.port) == ("board", "bob", 22)
    assert found.user_known_hosts[0] == tmp_path / ".ssh" / "known_hosts"
    assert tmp_path / ".ssh" / "id_ed25519" in found.identity_files


def test_included_files_lie_beside_the_configuration(options, tmp_path):
    (tmp_path / ".ssh" / "conf.d").mkdir(parents=True)
    (tmp_path / ".ssh" / "conf.d" / "a").write_text("User a\n")
    (tmp_path / "b").write_text("Port 7\n")
    found = options("Include conf.d/*\nInclude ~/b\n")
    assert (found.user, found.port) == ("a", 7)


def test_the_users_file_comes_before_the_machines(tmp_path):
    mine, machines = tmp_path / "mine", tmp_path / "machines"
    mine.write_text("User me\n")
    machines.write_text("User all\nPort 9\nGSSAPIAuthentication yes\nSendEnv LANG LC_*\n")
    machines.chmod(0o666)  # only the user's own is looked at
    found = resolve(Address("x"), tmp_path, [Source(mine, True), Source(machines, False)])
    assert (found.user, found.port, found.not_honoured) == ("me", 9, ())


def test_file_that_others_may_write(options, tmp_path):
    options("User a\n")
    (tmp_path / ".ssh" / "config").chmod(0o620)
    with pytest.raises(DeviceError, match="could have been written by somebody else"):
        resolve(Address("x"), tmp_path, [Source(tmp_path / ".ssh" / "config", True)])


def test_errors_name_file_and_line(options, tmp_path):
    with pytest.raises(DeviceError, match=r"\.ssh/config, line 2"):
        options('User bob\nIdentityFile "unfinished\n')


def test_variables(options, monkeypatch, tmp_path):
    monkeypatch.setenv("KEYS", "/keys")
    monkeypatch.delenv("ABSENT", raising=False)
    assert options("IdentityFile ${KEYS}/a\n").identity_files == (Path("/keys/a"),)
    with pytest.raises(DeviceError, match="ABSENT"):
        options("IdentityFile ${ABSENT}/a\n")


def test_agent(options, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("OTHER", "/run/other")
    assert options("").identity_agent == "/run/agent"
    assert options("IdentityAgent none").identity_agent == ""
    assert options("IdentityAgent $OTHER").identity_agent == "/run/other"
    assert options("IdentityAgent SSH_AUTH_SOCK").identity_agent == "/run/agent"


def test_times_that_are_off_have_our_limits(options):
    """Nothing may wait for ever, whatever is configured."""
    found = options("ServerAliveInterval 0\nConnectTimeout none\n")
    assert (found.alive_interval_s, found.alive_count, found.connect_limit_s) == (15, 3, 15)


@pytest.mark.parametrize(
    "line",
    ["PKCS11Provider /lib/p.so", "SecurityKeyProvider /lib/k.so", "ProxyUseFdpass yes",
     "KnownHostsCommand /bin/x", "RevokedHostKeys /keys", "CanonicalizeHostname yes",
     "NoHostAuthenticationForLocalhost yes", "SetEnv A=b"],
)  # fmt: skip
def test_what_cannot_be_honoured_is_told(line, options):
    assert options(line + "\n").not_honoured == (line,)


@pytest.mark.parametrize(
    "line",
    ["PKCS11Provider none", "ForwardX11 yes", "ControlMaster auto", "LogLevel DEBUG",
     "CanonicalizeHostname no", "AddKeysToAgent yes", "LocalForward 1 x:2", "UseKeychain yes"],
)  # fmt: skip
def test_what_changes_nothing_is_not(line, options):
    assert options(line + "\n").not_honoured == ()


def test_hops_of_hops(tmp_path):
    path = tmp_path / "config"
    path.write_text(
        "Host board\n ProxyJump b@two:2200,three\nHost two\n ProxyJump one\nHost three\n"
        " ProxyJump never\n"
    )
    sources = [Source(path, True)]
    route = find_route(resolve(Address("board"), tmp_path, sources), tmp_path, sources)
    assert [hop.alias for hop in route] == ["one", "two", "three", "board"]
    assert (route[1].user, route[1].port) == ("b", 2200)


def test_malformed_hop(options):
    with pytest.raises(DeviceError, match="ProxyJump"):
        options("ProxyJump a b\n")


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [("b", "b"), ("c,a", "ca"), ("x,b", "b"), ("x", ""), ("+x", "abc"), ("-b,x", "ac"),
     ("^c,b", "cba"), ("*", "abc"), ("-*", "")],
)  # fmt: skip
def test_lists_of_algorithms(spec, chosen):
    assert select(spec, "abc") == tuple(chosen)
