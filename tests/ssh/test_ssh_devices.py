"""A bundle's life on this machine, reached over its OpenSSH server."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from conftest import ROOT, documented, run_edgekit

from edgekit.target import read_target

pytestmark = [pytest.mark.ssh, pytest.mark.runtime]
SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())


def test_a_bundle_s_life(ssh_device, digits_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "a store"))
    bundle = str(digits_bundle)
    first = documented("deploy", bundle, ssh_device, "--after", "echo restarted")
    assert first["device"] == ssh_device
    assert first["sent_bytes"] > 3_000_000
    assert documented("deploy", bundle, ssh_device)["sent_bytes"] == 0
    rows = documented("ls", ssh_device)["bundles"]
    assert [(row["name"], row["current"]) for row in rows] == [("digits", True)]

    benched = documented("bench", bundle, ssh_device, "--runs", "9")
    assert benched["parity"]["max_abs_diff"] == 0
    assert benched["environment"]["emulated"] is False
    latency = next(row for row in benched["budgets"] if row["name"] == "latency_ms")
    assert latency["source"] == "measured"

    judged = documented("eval", bundle, ssh_device)
    assert judged["accuracy"] == judged["host_accuracy"]
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    files = ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert documented("run", bundle, ssh_device, *files)["outputs"][0]["shape"] == [1, 10]
    assert run_edgekit("rollback", "digits", ssh_device).returncode == 1
    assert run_edgekit("rm", "digits", ssh_device).returncode == 0
    assert not list((tmp_path / "a store" / ".store" / "incoming").iterdir())


def test_probe_reports_the_same_over_ssh(ssh_device, tmp_path) -> None:
    path = tmp_path / "over.toml"
    far = documented("targets", "probe", ssh_device, "--output", str(path))
    near = documented("targets", "probe", "local")
    assert far["target"] == near["target"]
    assert far["hardware"]["clusters"][0]["cpus"] == near["hardware"]["clusters"][0]["cpus"]
    assert read_target(path).glibc == near["hardware"]["glibc"]


def test_a_device_whose_key_is_new(make_server, digits_bundle, tmp_path, monkeypatch) -> None:
    server = make_server()
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "store"))
    for known in server.home.rglob("known_hosts*"):
        known.write_text("")
    refused = run_edgekit("deploy", str(digits_bundle), server.device, "--json")
    assert refused.returncode == 4
    error = json.loads(refused.stdout)
    jsonschema.validate(error, SCHEMA)
    assert error["error"] == "HostKeyError"
    assert "SHA256:" in error["message"]
    assert "--accept-new-host-key" in error["hint"]
    done = run_edgekit("deploy", str(digits_bundle), server.device, "--accept-new-host-key")
    assert done.returncode == 0, done.stderr
    assert run_edgekit("ls", server.device).returncode == 0
