"""A Raspberry Pi's life with edgekit, on an emulated one: real kernel, real sshd, real memory."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import DIGITS, ROOT, build_with_other_weights, documented, run_edgekit
from emulated.pi import Pi, booted
from watching import patience_s, until

from edgekit.target import load_target, read_target

pytestmark = [pytest.mark.runtime, pytest.mark.pi]
CACHE = os.environ.get("XDG_CACHE_HOME", f"{Path.home()}/.cache")
STORE = "/home/pi/.local/share/edgekit"


@pytest.fixture
def reach(pi4, monkeypatch) -> Pi:
    """The Pi, reachable by edgekit in this process and in commands; its store is empty."""
    monkeypatch.delenv("EDGEKIT_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)  # runners are compiled once for all tests
    monkeypatch.setenv("HOME", str(pi4.home))
    pi4.ssh(f"rm -rf {STORE} big")
    return pi4


def runners_on(pi: Pi) -> str:
    return pi.ssh("pgrep -af '[r]unner --model' || true").stdout


def temporary_on(pi: Pi) -> list[str]:
    return pi.ssh(f"ls -d /tmp/edgekit-* {STORE}/.store/incoming/* 2>/dev/null").stdout.split()


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory) -> Path:
    return build_with_other_weights("rpi4", tmp_path_factory.mktemp("other"))


def test_a_model_s_life_on_a_pi(reach, digits_arm_bundle, other_weights, tmp_path) -> None:
    bundle, other = str(digits_arm_bundle), str(other_weights)
    first = documented("deploy", bundle, reach.device)
    assert first["path"] == f"{STORE}/digits/current"
    assert first["reused_bytes"] == 0
    assert documented("deploy", bundle, reach.device)["sent_bytes"] == 0

    found = documented("eval", bundle, reach.device)
    assert found["accuracy"] == found["host_accuracy"]  # int8 is bit-equal, so is its accuracy

    script = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom edgekit_model import Model\n"
        "with Model(sys.argv[1]) as m:\n    y = m([0.0] * 64)\n    print(y.tolist()[0])\n"
    )
    run = f"cd / && python3 - {STORE}/digits/current"
    told = reach.ssh(run, stdin=script)
    assert told.returncode == 0, told.stderr
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    output = tmp_path / "y.npy"
    documented(
        "run", bundle, reach.device, "--input", str(tmp_path / "x.npy"), "--output", str(output)
    )
    assert json.loads(told.stdout) == np.load(output)[0].tolist()

    second = documented("deploy", other, reach.device)
    assert second["sent_bytes"] <= (other_weights / "model.pte").stat().st_size + 10_000
    rows = documented("ls", reach.device)["bundles"]
    assert {row["release"]: row["current"] for row in rows} == {
        first["release"]: False,
        second["release"]: True,
    }
    assert run_edgekit("rollback", "digits", reach.device).returncode == 0
    check = reach.ssh(f"cd {STORE}/digits/current && python3 edgekit_model.py .")
    assert check.returncode == 0, check.stdout + check.stderr
    linked = reach.ssh(f"readlink {STORE}/digits/current").stdout.strip()
    assert linked == f"releases/{first['release']}"
    assert run_edgekit("rm", "digits", reach.device).returncode == 0
    assert documented("ls", reach.device)["bundles"] == []
    assert not temporary_on(reach)


def test_probe_writes_a_target_like_the_built_in_one(reach, tmp_path) -> None:
    path = tmp_path / "my-pi4.toml"
    probed = documented("targets", "probe", reach.device, "--output", str(path))
    assert probed["environment"]["emulated"] is True
    assert probed["environment"]["throttled"] is None
    assert [one["cpu"] for one in probed["hardware"]["clusters"]] == ["Cortex-A72"]
    mine, built_in = read_target(path), load_target("rpi4")
    assert (mine.architecture, mine.cpu) == (built_in.architecture, built_in.cpu)
    assert set(built_in.features) <= set(mine.features)
    assert (mine.cores, mine.threads) == (built_in.cores, built_in.threads)
    assert mine.clock_ghz is None
    assert mine.memory_mb == pytest.approx(built_in.memory_mb, rel=0.1)


def test_bench_measures_memory_and_says_what_is_emulated(reach, digits_arm_bundle) -> None:
    done = documented("bench", str(digits_arm_bundle), reach.device, "--runs", "9")
    assert done["parity"]["max_abs_diff"] == 0
    assert done["environment"]["emulated"] is True
    assert done["environment"]["architecture"] == "aarch64"
    assert "Raspberry Pi 4" in done["environment"]["model"]
    assert done["environment"]["during"]["samples"] >= 2
    assert 3 < done["peak_memory_mb"] < 8
    latency = next(row for row in done["budgets"] if row["name"] == "latency_ms")
    assert (latency["value"], latency["status"]) == (None, "not_asked")
    text = run_edgekit("bench", str(digits_arm_bundle), reach.device, "--runs", "3").stdout
    assert "EMULATED" in text
    assert not runners_on(reach)
    assert not temporary_on(reach)


def test_peak_memory_is_the_kernel_s(reach, digits_arm_bundle) -> None:
    from edgekit.bundle.manifest import read_manifest
    from edgekit.device.connect import connect
    from edgekit.measure.golden import golden_inputs
    from edgekit.progress import Silent
    from edgekit.runner.client import Serving
    from edgekit.store.store import installed_on

    manifest = read_manifest(digits_arm_bundle)
    transport = connect(reach.device)
    try:
        at = installed_on(transport, digits_arm_bundle, manifest, None, Silent())
        with Serving(at, threads=4) as serving:
            serving.infer(golden_inputs(digits_arm_bundle, manifest))
            told = serving.stats().peak_memory_mb
            status = reach.ssh("cat /proc/$(pgrep -f '[r]unner --model')/status").stdout
    finally:
        transport.close()
    kernel_kb = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert told == pytest.approx(kernel_kb * 1024 / 1e6, rel=0.01)


def test_build_ends_with_the_measured_verdict(reach, tmp_path) -> None:
    arguments = ["build", str(DIGITS), "--target", "rpi4", "--device", reach.device]
    arguments += ["--effort", "quick"]  # which does not search for a smaller model
    output = ["--output", str(tmp_path / "out")]
    done = documented(*arguments, *output, "--memory-mb", "20", "--latency-ms", "1000", code=5)
    lines = {row["name"]: row for row in done["budgets"]}
    assert lines["peak_memory_mb"]["source"] == "measured"
    assert lines["peak_memory_mb"]["status"] == "ok"
    assert lines["latency_ms"]["status"] == "unknown"
    missed = documented(*arguments, *output, "--memory-mb", "2", code=3)
    assert missed["verdict"] == "missed"
    assert all(not row["current"] for row in documented("ls", reach.device)["bundles"])


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("/mnt/noexec/edgekit", "cannot be started"),
        ("/mnt/small/edgekit", "MB free, the bundle requires"),
        ("/opt/edgekit", "not writable"),
    ],
)
def test_preflight(reach, digits_arm_bundle, monkeypatch, root, said) -> None:
    monkeypatch.setenv("EDGEKIT_ROOT", root)
    if root.startswith("/mnt/small"):
        reach.ssh("head -c 7500000 /dev/zero > /mnt/small/full")
    done = run_edgekit("deploy", str(digits_arm_bundle), reach.device)
    reach.ssh("rm -rf /mnt/small/full /mnt/small/edgekit")
    assert done.returncode == 1
    assert said in done.stderr
    assert "nothing was sent" in done.stderr


def test_a_bundle_for_x86(reach, digits_bundle) -> None:
    done = run_edgekit("deploy", str(digits_bundle), reach.device)
    assert done.returncode == 1
    assert "the device is aarch64, the bundle is for x86_64" in done.stderr


@pytest.mark.parametrize(
    ("command", "wait_for"),
    [
        (["bench", "BUNDLE", "DEVICE", "--runs", "1000000"], "timing"),
        (["eval", "BUNDLE", "DEVICE"], "evaluating"),
        (["deploy", "BIG", "DEVICE"], "sending"),
    ],
)
def test_an_interruption_leaves_nothing_there(
    reach, digits_arm_bundle, big_bundle, command, wait_for
) -> None:
    run_edgekit("deploy", str(digits_arm_bundle), reach.device)
    names = {"BUNDLE": str(digits_arm_bundle), "BIG": str(big_bundle), "DEVICE": reach.device}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", *[names.get(word, word) for word in command]],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if wait_for in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.wait(timeout=patience_s(60))
    process.stderr.close()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    settled(reach)
    rows = documented("ls", reach.device)["bundles"]
    assert [row["current"] for row in rows] == [True]


def settled(pi: Pi) -> None:
    """Nothing of ours runs there and nothing temporary lies there: now, or in a moment."""

    def left() -> str:
        runners, files = runners_on(pi), temporary_on(pi)
        return f"{runners} {files}" if runners or files else ""

    until(lambda: not left(), f"left on the device: {left()}")


@pytest.fixture(scope="module")
def big_bundle(digits_arm_bundle, tmp_path_factory) -> Path:
    """The digits with a golden input so large that sending it takes a while."""
    from resealed import reseal

    folder = tmp_path_factory.mktemp("big") / "bundle"
    shutil.copytree(digits_arm_bundle, folder)
    model = folder / "model.pte"
    model.write_bytes(model.read_bytes() + os.urandom(40_000_000))
    reseal(folder)
    return folder


def test_a_frozen_device_is_noticed_and_the_next_deployment_completes(
    digits_arm_bundle, big_bundle, monkeypatch
) -> None:
    monkeypatch.delenv("EDGEKIT_ROOT", raising=False)
    with booted("zero2w") as pi:
        config = pi.home / ".ssh" / "config"
        config.write_text(
            config.read_text() + "Host *\n    ServerAliveInterval 1\n    ServerAliveCountMax 3\n"
        )
        monkeypatch.setenv("HOME", str(pi.home))
        assert documented("deploy", str(digits_arm_bundle), pi.device)["changed"]
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "deploy", str(big_bundle), pi.device],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in process.stderr:
            if "sending" in line:
                break
        pi.freeze()
        rest = process.stderr.read()
        process.wait(timeout=patience_s(120))
        process.stderr.close()
        pi.thaw()
        assert process.returncode == 4, rest
        rows = documented("ls", pi.device)["bundles"]
        assert [(row["name"], row["current"]) for row in rows] == [("digits", True)]
        settled(pi)
        assert documented("deploy", str(big_bundle), pi.device)["changed"]
        pi.kill()
        gone = run_edgekit("ls", pi.device)
        assert gone.returncode == 4


PAGES = ["devices.md", "ssh.md", "emulated-pi.md"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_docs_of_devices_run(reach, page, tmp_path, monkeypatch) -> None:
    """Every `$ edgekit` line, on the Pi under the names that the pages use."""
    alias = (reach.folder / "ssh_config").read_text()
    names = f"Host {reach.alias} raspberrypi emulated-pi4"
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(alias.replace(f"Host {reach.alias}", names))
    monkeypatch.setenv("HOME", str(home))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    for line in (line[2:] for block in blocks for line in block.splitlines()):
        words = shlex.split(line, comments=True)
        expected = int(match[1]) if (match := re.search(r"# exit (\d)", line)) else 0
        if words[:1] == ["edgekit"]:
            done = run_edgekit(*words[1:])
            assert done.returncode == expected, f"{line}\n{done.stderr}"
        elif words[0] in ("python", "python3") and words[1] == "-c":
            subprocess.run([sys.executable, *words[1:]], check=True)
