from __future__ import annotations

import pytest

from edgekit.errors import TargetError
from edgekit.target import built_in_folder, load_target, read_target, target_files

GOOD = 'architecture = "aarch64"\ncpu = "cortex-a72"\ncores = 4\nthreads = 4\nglibc = "2.31"\n'
GOOD += 'runtimes = ["executorch"]\n'


@pytest.mark.parametrize("name", ["x86", "rpi4", "rpi5", "rpi3", "rpi-zero2w"])
def test_built_in_targets_load_and_hold_no_budgets(name) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.budgets.model_dump(exclude_none=True) == {}


def test_every_built_in_file_is_a_target() -> None:
    for path in built_in_folder().glob("*.toml"):
        read_target(path)


def test_a_name_whose_file_is_here_suggests_its_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-board.toml").write_text("")
    with pytest.raises(TargetError) as caught:
        load_target("my-board")
    assert "./my-board.toml" in caught.value.hint


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(TargetError) as caught:
        load_target("rpi44")
    assert "rpi4" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD.replace('"aarch64"', '"armv6"'), ["architecture", "x86_64", "aarch64"]),
        (GOOD + "speed = 3\n", ["speed", "unknown key", "architecture"]),
        (GOOD.replace("cores = 4\n", ""), ["cores", "missing"]),
        (GOOD.replace("threads = 4", "threads = 5"), ["threads", "cores"]),
        (GOOD.replace('["executorch"]', '["onnx"]'), ["runtimes", "executorch"]),
        (GOOD + "[budgets]\nlatency_ms = -1\n", ["budgets.latency_ms", "greater than 0"]),
        ("cores = [", ["not valid TOML"]),
        (GOOD + 'name = "other"\n', ["name", "remove this key"]),
    ],
)
def test_a_broken_file_names_itself_the_key_and_what_is_allowed(tmp_path, text, parts) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(str(path))
    for part in ("mine.toml", *parts):
        assert part in caught.value.message


def test_a_users_target_may_hold_budgets(tmp_path, monkeypatch) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.toml").write_text(GOOD + "[budgets]\nlatency_ms = 9\n")
    monkeypatch.chdir(tmp_path)
    assert load_target("mine").budgets.latency_ms == 9


def test_local_then_user_then_built_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user = tmp_path / "config" / "edgekit" / "targets"
    user.mkdir(parents=True)
    (user / "rpi4.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert target_files()["rpi4"] == user / "rpi4.toml"
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "rpi4.toml").write_text(GOOD)
    assert str(target_files()["rpi4"]) == "targets/rpi4.toml"


def test_a_missing_file() -> None:
    with pytest.raises(TargetError, match="does not exist"):
        load_target("nowhere/board.toml")


@pytest.mark.parametrize(("name", "computes"), [("rpi5", True), ("rpi4", False), ("x86", False)])
def test_which_cores_compute_in_half_precision(name, computes) -> None:
    assert load_target(name).computes_half == computes
