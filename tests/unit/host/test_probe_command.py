"""targets probe: the file that --output names."""

from __future__ import annotations

import pytest
from machines import MACHINES

from edgekit.commands import probe as probe_command
from edgekit.commands.probe import probe_device
from edgekit.device.facts.hardware import hardware_of
from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.probe import probe
from edgekit.errors import DeviceError, OutputError, TargetError, UsageError
from edgekit.target import read_target


@pytest.fixture
def device(tmp_path, monkeypatch):
    """Make "local" one of the machines."""

    def become(name: str) -> None:
        root = str(MACHINES[name].write(tmp_path / name))
        monkeypatch.setattr(
            probe_command, "environment_of", lambda there: parse_environment(probe(there, root))
        )
        monkeypatch.setattr(probe_command, "hardware_of", lambda there: hardware_of(there, root))

    return become


def test_a_target_file(device, tmp_path) -> None:
    device("rk3588")
    path = tmp_path / "opi5.toml"
    document = probe_device("local", path)
    target = read_target(path)
    assert (target.name, target.cpu, target.threads) == ("opi5", "cortex-a76", 4)
    assert document.output == str(path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["opi5.toml"]


def test_an_existing_file_is_never_replaced(device, tmp_path) -> None:
    device("rk3588")
    path = tmp_path / "opi5.toml"
    probe_device("local", path)
    before = path.stat()
    probe_device("local", path)  # the same content: nothing to do
    assert path.stat() == before or path.stat().st_mtime_ns == before.st_mtime_ns
    mine = path.read_text() + "\n[budgets]\nmemory_mb = 40\n"
    path.write_text(mine)
    with pytest.raises(OutputError) as caught:
        probe_device("local", path)
    assert caught.value.hint
    assert path.read_text() == mine


@pytest.mark.parametrize("name", ["opi5", "opi5.json", ".toml"])
def test_a_name_that_no_target_can_have(name, tmp_path) -> None:
    """Found before any connection."""
    with pytest.raises(UsageError):
        probe_device("nobody@nowhere.invalid", tmp_path / name)


def test_a_folder_that_does_not_exist(device, tmp_path) -> None:
    device("rk3588")
    with pytest.raises(OutputError, match="missing"):
        probe_device("local", tmp_path / "missing" / "opi5.toml")
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(OutputError):
        probe_device("local", tmp_path / "a.toml")


def test_a_device_that_cannot_be_a_target(device, tmp_path) -> None:
    device("alpine")
    document = probe_device("local")
    assert document.target is None
    assert document.target_problems
    path = tmp_path / "x.toml"
    with pytest.raises(TargetError) as caught:
        probe_device("local", path)
    assert all(problem in caught.value.message for problem in document.target_problems)
    assert not path.exists()


def test_a_device_that_does_not_answer(monkeypatch) -> None:
    def late(*arguments, **options):
        raise TimeoutError

    monkeypatch.setattr("edgekit.device.local.LocalTransport.run", late)
    with pytest.raises(DeviceError):
        probe_device("local")
