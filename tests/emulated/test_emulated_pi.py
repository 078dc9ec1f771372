"""The emulated Pi itself: what a board must be like, that it holds no secret, and how it ends."""

from __future__ import annotations

import mmap
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from emulated.pi import FOLDER, SCRIPT, booted, emulated_pi
from pi_emulator.access import UserConfig
from pi_emulator.devicetree import with_model
from watching import patience_s

pi = pytest.mark.pi

BOARD_FACTS = """
uname -m
nproc
sed -n 's/^CPU part.*: //p' /proc/cpuinfo | sort -u
sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo
tr -d '\\0' < /sys/firmware/devicetree/base/model; echo
tr '\\0' '\\n' < /sys/firmware/devicetree/base/compatible
"""


def check_board(machine, part: str, memory_mb: int, model: str) -> None:
    architecture, cores, found, kilobytes, name, compatible = (
        machine.ssh(BOARD_FACTS).stdout.strip().splitlines()
    )
    assert (architecture, cores, found, name) == ("aarch64", "4", part, model)
    assert compatible == "linux,dummy-virt"  # nobody may take it for the real board
    assert 0.85 * memory_mb < int(kilobytes) * 1024 / 1e6 < memory_mb


@pi
def test_a_pi_4(pi4) -> None:
    check_board(pi4, "0xd08", 1074, "Raspberry Pi 4 Model B Rev 1.4")


@pi
def test_a_zero_2_w_of_ones_own_killed() -> None:
    with booted("zero2w") as own:
        check_board(own, "0xd03", 537, "Raspberry Pi Zero 2 W Rev 1.0")
        folder, machine = own.folder, own.machine
        own.kill()
        assert machine.state() == "ended"
        assert own.ssh("true").returncode == 255
    assert not folder.exists()


@pi
def test_a_pi_5_frozen_and_thawed() -> None:
    with booted("pi5", memory_mb=600) as own:
        check_board(own, "0xd0b", 600, "Raspberry Pi 5 Model B Rev 1.0")
        assert "asimddp" in own.ssh("grep -m1 Features /proc/cpuinfo").stdout
        machine = own.machine
        own.freeze()
        assert machine.state() == "frozen"
        with pytest.raises(subprocess.TimeoutExpired):
            own.ssh("true", timeout_s=2)
        own.thaw()
        assert own.ssh("true").returncode == 0
        own.freeze()  # it ends all the same
    assert machine.state() == "ended"
    assert not machine.folder.exists()


@pi
def test_an_ordinary_user(pi4) -> None:
    script = (
        "import os, json, struct, subprocess, array; print(os.getuid(), os.path.expanduser('~'))"
    )
    done = pi4.ssh("python3 -", stdin=script)
    assert done.stdout.split() == ["1000", "/home/pi"], done.stderr
    assert pi4.ssh("touch ~/mine && rm ~/mine && ! touch /etc/mine").returncode == 0
    assert pi4.ssh("id -u", user="root").stdout == "0\n"
    needed = "bash dash busybox gzip tar sha256sum timeout taskset flock pgrep mktemp"
    assert (
        pi4.ssh(
            f"for name in {needed}; do command -v $name || echo no $name; done | grep ^no"
        ).stdout
        == ""
    )


@pi
def test_places_that_are_full_or_run_nothing(pi4) -> None:
    free = pi4.ssh("df --output=avail -k ~ | tail -n 1").stdout
    assert int(free) > 300_000
    full = pi4.ssh(
        "head -c 9000000 /dev/zero > /mnt/small/full; code=$?; rm /mnt/small/full; exit $code"
    )
    assert full.returncode != 0
    assert "No space left" in full.stderr
    refused = pi4.ssh("cp /bin/true /mnt/noexec/ && /mnt/noexec/true")
    assert "Permission denied" in refused.stderr


@pi
def test_memory_is_limited_by_a_control_group(pi4) -> None:
    hog = "import mmap; m = mmap.mmap(-1, 40_000_000)\nfor i in range(0, len(m), 4096): m[i] = 1"
    group = "/sys/fs/cgroup/test"
    done = pi4.ssh(
        f"mkdir {group} && echo 20000000 > {group}/memory.max && echo $$ > {group}/cgroup.procs"
        f" && python3 -; echo $?; echo $$ > /sys/fs/cgroup/cgroup.procs; rmdir {group}",
        user="root",
        stdin=hog,
    )
    assert done.stdout == "137\n", done.stderr
    assert pi4.ssh("wc -l < /proc/swaps").stdout == "1\n"
    assert "[never]" in pi4.ssh("cat /sys/kernel/mm/transparent_hugepage/enabled").stdout


@pi
def test_its_host_key_is_checked(pi4, tmp_path) -> None:
    port = str(pi4.machine.port)
    said = subprocess.run(
        ["ssh-keyscan", "-p", port, "-t", "ed25519", "127.0.0.1"], capture_output=True, text=True
    ).stdout
    (line,) = [line for line in said.splitlines() if not line.startswith("#")]
    known = (pi4.folder / "known_hosts").read_text()
    assert line in known.splitlines()
    wrong = tmp_path / "known_hosts"
    wrong.write_text("")
    options = [
        "-F",
        str(pi4.ssh_config),
        "-o",
        "BatchMode=yes",
        "-o",
        f"UserKnownHostsFile={wrong}",
    ]
    refused = subprocess.run(["ssh", *options, pi4.alias, "true"], capture_output=True, text=True)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


@pi
def test_the_image_holds_no_key(pi4) -> None:
    private = rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}"
    mine = (pi4.folder / "id_ed25519.pub").read_text().split()[1].encode()
    (image,) = FOLDER.glob("image-*")
    for path in image.iterdir():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            assert not re.search(private, data)
            assert data.find(mine) == -1
    assert not (pi4.folder / "seed.tar").exists()
    assert (pi4.folder / "id_ed25519").stat().st_mode & 0o077 == 0


@pi
def test_a_second_build_does_nothing(pi4) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in FOLDER.glob("image-*/*")}

    before = files()
    done = emulated_pi("build")
    assert done.returncode == 0
    assert done.stdout.startswith("the image is ")
    assert files() == before


@pi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(tmp_path, number) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "build", "--folder", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert "fetching" in process.stdout.readline()
    time.sleep(0.5)
    os.kill(process.pid, number)
    process.communicate(timeout=patience_s(60))
    assert process.returncode in (130, 143)
    assert [path.name for path in tmp_path.iterdir()] == ["build.lock"]


@pi
def test_a_name_is_given_once(pi4) -> None:
    done = emulated_pi("boot", "pi4", "--name", pi4.alias)
    assert done.returncode == 1
    assert f"{pi4.alias} is running already" in done.stderr
    assert f"{pi4.alias} " in emulated_pi("status").stdout
    assert pi4.ssh("true").returncode == 0


@pi
def test_an_edgekit_home_reaches_it(pi4) -> None:
    """ssh itself asks the account database for the home, so it is told the file."""
    done = subprocess.run(
        ["ssh", "-F", str(pi4.home / ".ssh" / "config"), "-G", pi4.alias],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"port {pi4.machine.port}\n" in done.stdout
    assert "hostname 127.0.0.1\n" in done.stdout


def test_what_is_missing_is_named_with_its_command(tmp_path) -> None:
    done = emulated_pi("build", folder=tmp_path / "none", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "this machine lacks" in done.stderr
    assert re.search(r"sudo apt-get install .*mmdebstrap", done.stderr)
    assert not (tmp_path / "none").exists()


def test_machines_that_do_not_exist(tmp_path) -> None:
    assert "no machine" in emulated_pi("stop", "--all", folder=tmp_path).stdout
    done = emulated_pi("stop", "mine", folder=tmp_path)
    assert done.returncode == 1
    assert "no machine called mine" in done.stderr


def test_the_include_line_comes_and_goes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    user = UserConfig(tmp_path / "machines")
    own = "Host elsewhere\n    Port 2222\n"
    config = tmp_path / ".ssh" / "config"
    assert user.install()
    assert config.stat().st_mode & 0o777 == 0o600
    config.write_text(config.read_text() + own)
    assert not user.install()
    assert config.read_text() == user.line + "\n" + own
    assert user.uninstall()
    assert not user.uninstall()
    assert config.read_text() == own


def test_only_a_device_tree_gets_a_model() -> None:
    with pytest.raises(ValueError, match="not a device tree"):
        with_model(bytes(64), "Raspberry Pi")
