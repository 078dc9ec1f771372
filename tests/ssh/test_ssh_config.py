"""Our reading of a configuration against what ssh itself says of it."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import socket
import subprocess

import pytest

from edgekit.device.ssh.address import Address, parse_address
from edgekit.device.ssh.config import Source
from edgekit.device.ssh.options import HostOptions, resolve
from edgekit.errors import DeviceError

pytestmark = pytest.mark.ssh

# A name, the file, and the host that is asked for. FOLDER is where the file and its parts lie.
CONFIGS = {
    "nothing": ("", "board"),
    "user in the argument": ("User bob\n", "alice@board"),
    "port in the argument": ("Port 2200\n", "ssh://board:2222"),
    "options before any Host": ("User bob\nPort 2200\n", "board"),
    "first value wins": ("Host board\n User a\n Port 1\nHost *\n User b\n Port 2\n", "board"),
    "patterns": ("Host bo?rd *.lab\n User a\nHost x\n User b\n", "pi.lab"),
    "no character classes": ("Host b[o]ard\n User a\n", "board"),
    "negation": ("Host * !board\n User a\nHost board\n User b\n", "board"),
    "negation of others": ("Host * !board\n User a\n", "other"),
    "case of a host": ("Host BOARD\n User a\nHost board\n User b\n", "BOARD"),
    "equals and spaces": ("Host=board\nUser = bob\nPort\t=2200\n\tIdentityFile=/k/a\n", "board"),
    "quotes": (
        'Host "board"\n User "bob"\n IdentityFile "/my keys/id"\n'
        ' UserKnownHostsFile "/a b" /c # rest\n',
        "board",
    ),
    "single quotes and backslashes": (
        "IdentityFile '/my \"keys'\nCertificateFile \"/a \\\"b\\\"\"\nHostKeyAlias a\\ b\n",
        "board",
    ),
    "comments": ("# Host no\n  # more\nHost board # or so\n User bob # b\n", "board"),
    "any case of keywords": ("hOsT board\n uSER bob\n hostname Other.Example\n", "board"),
    "hostname with its token": ("Host a b\n HostName %h.example.org\n", "a"),
    "hostname with two percents": ("Host a\n HostName %%h\n", "a"),
    "several identities": (
        "Host board\n IdentityFile /k/a\n IdentityFile /k/b\nHost *\n IdentityFile /k/a\n"
        " IdentityFile /k/c\n IdentitiesOnly yes\n",
        "board",
    ),
    "tokens": (
        "Host board\n HostName h.example\n User bob\n Port 2200\n IdentityFile %d/%u/%r\n"
        " IdentityFile ~/%h/%n/%p/%%/%L/%l/%i\n CertificateFile ~/c-%r\n"
        " UserKnownHostsFile ~/known ~/%h\n",
        "board",
    ),
    "known hosts": (
        "UserKnownHostsFile /a\nUserKnownHostsFile /b\nGlobalKnownHostsFile /c /d\n"
        "HostKeyAlias other\nHashKnownHosts yes\nStrictHostKeyChecking accept-new\n",
        "board",
    ),
    "no known hosts": ("UserKnownHostsFile none\nStrictHostKeyChecking off\n", "board"),
    "strict": ("StrictHostKeyChecking yes\n", "board"),
    "times and flags": (
        "ConnectTimeout 1m30\nServerAliveInterval 2m\nServerAliveCountMax 5\nBatchMode yes\n"
        "Compression yes\nAddressFamily inet6\nBindAddress 127.0.0.1\n",
        "board",
    ),
    "ways to log in": ("PubkeyAuthentication no\nPasswordAuthentication no\n", "board"),
    "jumps": ("Host board\n ProxyJump a@j1:2200,j2,b@[::1]:22\n", "board"),
    "no jump": ("Host board\n ProxyJump none\nHost *\n ProxyJump j\n", "board"),
    "command before jump": ("ProxyCommand nc %h %p\nProxyJump j\n", "board"),
    "jump before command": ("ProxyJump j\nProxyCommand nc %h %p\n", "board"),
    "a command keeps its quotes": ('ProxyCommand sh -c "a \'b\' # c" %r@%h\n', "board"),
    "no command": ("Host board\n ProxyCommand none\nHost *\n ProxyCommand nc x y\n", "board"),
    "agent": ("IdentityAgent ~/agent.sock\n", "board"),
    "no agent": ("IdentityAgent none\n", "board"),
    "include": ("Include FOLDER/part-*\nUser z\n", "board"),
    "include in a block that counts": ("Host board\n Include FOLDER/part-1\nUser z\n", "board"),
    "include in a block that does not": ("Host no\n Include FOLDER/part-1\nHost *\nPort 9\n", "b"),
    "a block does not leave its include": (
        "Host board\n Include FOLDER/part-2\n User z\n Port 7\n",
        "board",
    ),
    "nested includes": ("Include FOLDER/nested\n", "board"),
    "include of nothing": ("Include FOLDER/absent-*\nUser z\n", "board"),
    "match host": (
        "Host board\n HostName real.lab\nMatch host real.*\n User a\nMatch host board\n Port 9\n",
        "board",
    ),
    "match originalhost": (
        "Host board\n HostName real\nMatch originalhost board\n User a\nMatch originalhost real\n"
        " Port 9\n",
        "board",
    ),
    "match user": ("Match user bob\n Port 1\nMatch user alice\n Port 2\n", "alice@board"),
    "match a user set before": ("User bob\nMatch user bob\n Port 3\n", "board"),
    "match localuser": ("Match localuser ME\n Port 4\nMatch !localuser ME\n User x\n", "board"),
    "match all": ("Match host no\n User a\nMatch all\n User b\n", "board"),
    "match lists": ("Match host a,b*,!board\n User a\nMatch host c,b*\n User b\n", "board"),
    "match several": ("Match host board user bob\n Port 5\nMatch host board\n Port 6\n", "board"),
    "match exec": (
        "Match exec true\n User yes\nMatch exec false\n Port 7\n"
        'Match exec "test %h = board && test %p = 22"\n IdentityFile /k/%n\n',
        "board",
    ),
    "match not": ("Match !host no\n User a\nMatch !exec true\n Port 8\n", "board"),
    "match final": (
        "Match final host real\n User late\nHost board\n HostName real\nHost real\n Port 11\n"
        " IdentityFile /k/real\n",
        "board",
    ),
    "match final all": ("Host *\n IdentityFile /k/a\nMatch final all\n User late\n", "board"),
    "match not final": ("Match !final\n User early\nMatch final\n Port 12\n", "board"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "host"), CONFIGS.values(), ids=CONFIGS)
def test_resolves_as_ssh_does(text, host, tmp_path, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "part-1").write_text("User part1\nHost board\n Port 1001\nHost other\n User o\n")
    (tmp_path / "part-2").write_text("Host other\n User part2\n")
    (tmp_path / "nested").write_text(
        f"Host no\n Include {tmp_path}/part-1\nHost board\n Include {tmp_path}/part-2\n"
        f" Include {tmp_path}/part-1\n"
    )
    config = tmp_path / "config"
    text = text.replace("FOLDER", str(tmp_path)).replace("ME", getpass.getuser())
    config.write_text(text)
    ours = resolve(parse_address(host), tmp_path / "home", [Source(config, True)])
    assert rendered(ours) == said_by_ssh(config, host, ours, str(tmp_path / "home"))


def rendered(options: HostOptions) -> dict[str, str]:
    families = {socket.AF_UNSPEC: "any", socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
    return {
        "hostname": options.hostname,
        "user": options.user,
        "port": str(options.port),
        "identityfile": ",".join(map(str, options.identity_files)),
        "identitiesonly": _flag(options.identities_only),
        "certificatefile": ",".join(map(str, options.certificate_files)),
        "userknownhostsfile": " ".join(map(str, options.user_known_hosts)) or "none",
        "globalknownhostsfile": " ".join(map(str, options.global_known_hosts)),
        "hostkeyalias": options.host_key_alias or "",
        "hashknownhosts": _flag(options.hash_known_hosts),
        "stricthostkeychecking": options.strict,
        "proxycommand": options.proxy_command or "",
        "proxyjump": ",".join(map(_hop, options.proxy_jump)),
        "connecttimeout": f"{options.connect_limit_s:g}",
        "serveraliveinterval": f"{options.alive_interval_s:g}",
        "serveralivecountmax": str(options.alive_count),
        "batchmode": _flag(options.batch_mode),
        "compression": _flag(options.compression),
        "addressfamily": families[options.family],
        "bindaddress": options.bind_address or "",
        "identityagent": options.identity_agent,
        "pubkeyauthentication": _flag("publickey" in options.methods),
        "passwordauthentication": _flag("password" in options.methods),
    }


def said_by_ssh(config, host, ours: HostOptions, home: str) -> dict[str, str]:
    """What `ssh -G` says, in the words of ``rendered``. It knows no $HOME, expands no file names,
    and has other defaults for the times.
    """
    command = ["ssh", "-G", "-F", str(config), host]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    not_ours = ("/id_dsa", "/id_xmss")
    said["identityfile"] = [f for f in said["identityfile"] if not f.endswith(not_ours)]
    one = {key: ",".join(values) for key, values in said.items()}
    defaults = {"connecttimeout": ("none", "15"), "serveraliveinterval": ("0", "15")}
    result = {}
    for key in rendered(ours):
        value = one.get(key, "")
        ours_for = defaults.get(key)
        result[key] = ours_for[1] if ours_for and value == ours_for[0] else value
    account_home = pwd.getpwuid(os.getuid()).pw_dir
    tokens = {
        "%%": "%", "%h": result["hostname"], "%n": host.rpartition("@")[2], "%p": result["port"],
        "%r": result["user"], "%u": getpass.getuser(), "%d": home, "%i": str(os.getuid()),
        "%l": socket.gethostname(), "%L": socket.gethostname().split(".")[0],
    }  # fmt: skip
    for key in ("identityfile", "certificatefile", "userknownhostsfile", "proxycommand"):
        result[key] = re.sub("%.", lambda match: tokens[match[0]], result[key])
    for key in ("identityfile", "certificatefile", "identityagent", "userknownhostsfile"):
        result[key] = re.sub(rf"(^|[ ,])(~|{account_home})/", rf"\1{home}/", result[key])
    yes = {"true": "yes", "false": "no"}
    for key in ("stricthostkeychecking", "pubkeyauthentication", "passwordauthentication"):
        result[key] = yes.get(result[key], result[key])
    for key in ("proxyjump", "proxycommand", "identityagent"):
        result[key] = "" if result[key] in ("none", "SSH_AUTH_SOCK") else result[key]
    return result


def _flag(value: bool) -> str:
    return "yes" if value else "no"


def _hop(address: Address) -> str:
    user = f"{address.user}@" if address.user else ""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return user + host + (f":{address.port}" if address.port else "")


@pytest.mark.parametrize(
    "text",
    ["User\n", 'User "bob\n', "Port 70000\n", "Match host\n", "Match what ever\n",
     "ConnectTimeout soon\n", "IdentityFile /k/%Q\n", "Include FOLDER/config\n"],
)  # fmt: skip
def test_refuses_what_ssh_refuses(text, tmp_path):
    config = tmp_path / "config"
    config.write_text(text.replace("FOLDER", str(tmp_path)))
    ours = Source(config, True)
    with pytest.raises(DeviceError):
        resolve(Address("board"), tmp_path, [ours])
