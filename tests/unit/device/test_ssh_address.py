"""DEVICE arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgekit.device.connect import connect
from edgekit.device.local import LocalTransport
from edgekit.device.ssh.address import Address, parse_address
from edgekit.errors import DeviceError, UsageError


@pytest.mark.parametrize(
    ("device", "address"),
    [
        ("pi", Address("pi")),
        ("pi.local", Address("pi.local")),
        ("bob@pi", Address("pi", "bob")),
        ("bob@corp@pi", Address("pi", "bob@corp")),
        ("ssh://pi", Address("pi")),
        ("ssh://pi/", Address("pi")),
        ("ssh://bob@pi:2200", Address("pi", "bob", 2200)),
        ("ssh://bob%40corp@pi", Address("pi", "bob@corp")),
        ("ssh://bob@[fe80::1%eth0]:22", Address("fe80::1%eth0", "bob", 22)),
        ("ssh://[::1]", Address("::1")),
        ("::1", Address("::1")),
        ("bob@::1", Address("::1", "bob")),
        ("192.168.1.7", Address("192.168.1.7")),
        ("pi-4_b", Address("pi-4_b")),
    ],
)
def test_forms(device, address):
    assert parse_address(device) == address


@pytest.mark.parametrize(
    "device",
    ["", " ", "@", "bob@", "@pi", "ssh://", "ssh://bob@", "ssh://pi:", "ssh://pi:0",
     "ssh://pi:65536", "ssh://pi:x", "ssh://pi:-1", "ssh://pi:٢", "pi:22", "-pi", "-oProxy=x@pi",
     "bob@-pi", "a pi", "pi\n", "pi;id", "$(id)", "bob'@pi", "ssh://bob:secret@pi",
     "ssh://[pi]:22", "ssh://[::1", "pi/path", "http://pi"],
)  # fmt: skip
def test_malformed_ones_are_refused(device):
    with pytest.raises(UsageError) as caught:
        connect(device)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_local_and_android():
    assert isinstance(connect("local"), LocalTransport)
    with pytest.raises(DeviceError, match="does not support adb"):
        connect("adb://emulator-5554")


def test_local_pays_nothing_for_ssh():
    code = (
        "import sys, edgekit.device.connect as c; c.connect('local');"
        "import edgekit.cli.bundle_commands;"
        "assert not {'paramiko', 'cryptography'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
