"""Configurations as the OpenSSH client of this machine resolves them."""

from __future__ import annotations

import getpass
import os
import pwd
import socket
from pathlib import Path

import pytest

from edgekit.device.ssh.address import Address, parse_address
from edgekit.device.ssh.connection import find_route
from edgekit.device.ssh.options import HostOptions, resolve
from edgekit.errors import DeviceError

pytestmark = pytest.mark.ssh

ME, HERE = getpass.getuser(), socket.gethostname()
# A name, the file, the device that is asked for, and what is expected. HOME is its folder.
CONFIGS = {
    "nothing": ("", "board", {"hostname": "board", "user": ME, "port": 22}),
    "argument": ("User bob\nPort 2200\n", "ssh://alice@board:2222", {"user": "alice",
                                                                    "port": 2222}),
    "ipv6": ("", "bob@fe80::1%eth0", {"hostname": "fe80::1%eth0", "user": "bob"}),
    "first value wins": (
        "Host board\n User a\n Port 1\nHost *\n User b\n Port 2\n", "board",
        {"user": "a", "port": 1},
    ),
    "patterns": ("Host * !board\n User a\nHost bo?rd\n User b\n", "board", {"user": "b"}),
    "hostname": ("Host a\n HostName %h.Example.org\n", "a", {"hostname": "a.example.org"}),
    "identities": (
        "Host board\n IdentityFile \"/my keys/id\"\n IdentityFile ~/%r@%h\n IdentityFile %d/%u\n"
        "Host *\n User bob\n IdentitiesOnly yes\n CertificateFile ~/c-%n\n", "board",
        {"identity_files": ("/my keys/id", "HOME/bob@board", f"HOME/{ME}"),
         "are_identities_configured": True, "identities_only": True,
         "certificate_files": ("HOME/c-board",)},
    ),
    "usual identities": ("User bob\n", "board", {"are_identities_configured": False}),
    "tokens": (
        "HostKeyAlias key\nPort 7\nIdentityFile /%n/%p/%%/%L/%l/%i/%k\n", "board",
        {"identity_files": (f"/board/7/%/{HERE.split('.')[0]}/{HERE}/{os.getuid()}/key",)},
    ),
    "known hosts": (
        "UserKnownHostsFile ~/known \"/a b\" %d/%h\nGlobalKnownHostsFile /c /d\n"
        "HostKeyAlias other\nHashKnownHosts yes\nStrictHostKeyChecking accept-new\n", "board",
        {"user_known_hosts": ("HOME/known", "/a b", "HOME/board"),
         "global_known_hosts": ("/c", "/d"), "host_key_alias": "other", "hash_known_hosts": True,
         "strict": "accept-new"},
    ),
    "usual known hosts": (
        "User bob\n", "board",
        {"user_known_hosts": ("HOME/.ssh/known_hosts", "HOME/.ssh/known_hosts2")},
    ),
    "no known hosts": (
        "UserKnownHostsFile none\nStrictHostKeyChecking off\n", "board",
        {"user_known_hosts": (), "strict": "no"},
    ),
    "times and flags": (
        "ConnectTimeout 1m30\nServerAliveInterval 2m\nServerAliveCountMax 5\nBatchMode yes\n"
        "Compression yes\nAddressFamily inet6\nBindAddress 127.0.0.1\n", "board",
        {"connect_limit_s": 90, "alive_interval_s": 120, "alive_count": 5, "batch_mode": True,
         "compression": True, "family": socket.AF_INET6, "bind_address": "127.0.0.1"},
    ),
    "login": (
        "PasswordAuthentication no\nPreferredAuthentications password,publickey\n", "board",
        {"methods": ("publickey",)},
    ),
    "jumps": (
        "ProxyJump a@j1:2200,%h2,127.0.0.1:3,b@[::1]:22\nProxyCommand nc x y\n", "board",
        {"proxy_command": None, "proxy_jump": (
            Address("j1", "a", 2200), Address("board2"), Address("127.0.0.1", None, 3),
            Address("::1", "b", 22))},
    ),
    "no jump": ("Host board\n ProxyJump none\nHost *\n ProxyJump j\n", "board",
                {"proxy_jump": ()}),
    "command": (
        "ProxyCommand sh -c \"a 'b' # c\" %r@%h %p\nProxyJump j\nUser bob\n", "board",
        {"proxy_command": "sh -c \"a 'b' # c\" bob@board 22", "proxy_jump": ()},
    ),
    "no command": ("Host board\n ProxyCommand none\nHost *\n ProxyCommand nc x y\n", "board",
                   {"proxy_command": None}),
    "agent": ("IdentityAgent ~/%h.sock\n", "board", {"identity_agent": "HOME/board.sock"}),
    "no agent": ("IdentityAgent none\n", "board", {"identity_agent": ""}),
    "include": ("Include HOME/part-*\nUser z\n", "board", {"user": "part", "port": 1001}),
    "match": (
        "Host board\n HostName real.lab\nMatch host real.* user !bob,a*\n Port 9\n"
        'Match originalhost board exec "test %h = real.lab"\n BindAddress 127.0.0.1\n'
        "Match !exec true\n HostKeyAlias no\n", "alice@board",
        {"port": 9, "bind_address": "127.0.0.1", "host_key_alias": None},
    ),
    "match final": (
        "Match final host real\n User late\nHost board\n HostName real\nHost real\n Port 11\n",
        "board", {"user": "late", "port": 11},
    ),
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def configured(home: Path, text: str, device: str = "board") -> HostOptions:
    (home / ".ssh" / "config").write_text(text.replace("HOME", str(home)))
    return resolve(parse_address(device), home)


@pytest.mark.parametrize(("text", "device", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_configurations(text, device, expected, home):
    (home / "part-1").write_text("User part\nHost board\n Port 1001\nHost other\n")
    found = configured(home, text, device)
    for name, value in expected.items():
        value = of_home(value, home)
        got = getattr(found, name)
        assert (tuple(map(str, got)) if name.endswith(("_files", "_hosts")) and
                isinstance(got, tuple) else got) == value, name  # fmt: skip


def of_home(value, home: Path):
    if isinstance(value, str):
        return value.replace("HOME", str(home))
    return tuple(of_home(v, home) for v in value) if isinstance(value, tuple) else value


def test_algorithms_only_where_they_are_configured(home):
    assert configured(home, "").algorithms == {}
    changed = configured(home, "Ciphers ^aes256-gcm@openssh.com\nMACs -hmac-sha1*\n").algorithms
    assert set(changed) == {"ciphers", "macs"}
    assert changed["ciphers"][0] == "aes256-gcm@openssh.com"
    assert not [name for name in changed["macs"] if name.startswith("hmac-sha1")]


def test_the_account_s_own_home():
    """Here ssh reads its files by itself."""
    account = Path(pwd.getpwuid(os.getuid()).pw_dir)
    found = resolve(Address("no-such-alias", "bob", 2200), account)
    assert (found.user, found.port) == ("bob", 2200)
    assert found.user_known_hosts


def test_the_machines_file_counts(home, monkeypatch):
    machines = home / "machines"
    machines.write_text("User all\nPort 9\n")
    monkeypatch.setattr("edgekit.device.ssh.config.SYSTEM_CONFIG", machines)
    found = configured(home, "User me\n")
    assert (found.user, found.port) == ("me", 9)


def test_a_home_with_odd_characters(home):
    odd = home / "my [home] x"
    (odd / ".ssh").mkdir(parents=True)
    assert configured(odd, "User bob\n").user == "bob"


def test_an_include_that_ssh_looks_for_elsewhere(home):
    (note,) = configured(home, "Include conf.d/*\nInclude HOME/b\n").notes
    assert "conf.d/*" in note
    assert str(home / "b") not in note
    assert configured(home, 'Include HOME/b "HOME/c d" # or so\n').notes == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [("User\n", "line 1"), ('User bob\nUser "bob\n', "line 2"), ("Port 70000\n", "Bad port"),
     ("\n\nNoSuchOption x\n", "line 3: Bad configuration option: nosuchoption"),
     ("Match what ever\n", "line 1"), ("Include HOME/.ssh/config\n", "recursive")],
)  # fmt: skip
def test_ssh_says_what_is_wrong(text, said, home):
    with pytest.raises(DeviceError) as caught:
        configured(home, text)
    assert said in caught.value.message
    assert "terminating" not in caught.value.message
    assert "ssh -G board" in caught.value.hint


def test_file_that_others_may_write(home):
    configured(home, "User a\n")
    (home / ".ssh" / "config").chmod(0o622)  # Debian's ssh allows the group
    with pytest.raises(DeviceError, match="Bad owner or permissions"):
        resolve(Address("x"), home)


def test_hops_of_hops(home):
    options = configured(
        home,
        "Host board\n ProxyJump b@two:2200,three\nHost two\n ProxyJump one\nHost three\n"
        " ProxyJump never\n",
    )
    route = find_route(options, home)
    assert [hop.alias for hop in route] == ["one", "two", "three", "board"]
    assert (route[1].user, route[1].port) == ("b", 2200)
