from __future__ import annotations

import pytest

from edgekit import settings
from edgekit.errors import SettingError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "edgekit").mkdir(parents=True)
    return tmp_path


def test_flag_then_environment_then_project_then_user(elsewhere, monkeypatch) -> None:
    (elsewhere / "config/edgekit/edgekit.toml").write_text("latency_ms = 1\nmemory_mb = 1\n")
    (elsewhere / "edgekit.toml").write_text("latency_ms = 2\nsize_mb = 2\ntarget = 'rpi4'\n")
    monkeypatch.setenv("EDGEKIT_LATENCY_MS", "3")
    monkeypatch.setenv("EDGEKIT_SIZE_MB", "3")
    layers = settings.read_layers({"latency_ms": 4.0, "target": None})
    found = settings.limits(layers)
    assert {name: (limit.value, limit.asked_by) for name, limit in found.items()} == {
        "latency_ms": (4.0, "flag"),
        "size_mb": (3.0, "environment"),
        "peak_memory_mb": (1.0, "user configuration"),
    }
    assert settings.merge(layers) == {"target": "rpi4"}


def test_a_stronger_layer_replaces_what_it_excludes(elsewhere, monkeypatch) -> None:
    (elsewhere / "edgekit.toml").write_text("precision = 'int8'\nprune = 0.5\nqat = true\n")
    by_plan = settings.merge(settings.read_layers({"plan": "plan.json"}))
    assert by_plan == {"plan": "plan.json"}
    assert settings.merge(settings.read_layers({"precision": "fp32"})) == {
        "precision": "fp32",
        "prune": 0.5,
    }
    monkeypatch.setenv("EDGEKIT_PLAN", "plan.json")
    assert settings.merge(settings.read_layers({"sparsity": "0.5"})) == {
        "precision": "int8",
        "prune": 0.5,
        "qat": True,
        "sparsity": 0.5,
    }


def test_a_stronger_layer_takes_back_what_a_weaker_one_asks(elsewhere) -> None:
    (elsewhere / "edgekit.toml").write_text("qat = true\n")
    assert settings.merge(settings.read_layers({"qat": False})) == {"qat": False}


def test_constraints_come_from_both_files(elsewhere) -> None:
    (elsewhere / "config/edgekit/edgekit.toml").write_text(
        "[constraints]\nkeep_float = ['head']\nmin_channels = 8\n"
    )
    (elsewhere / "edgekit.toml").write_text("prune = 0.5\n[constraints]\nmin_channels = 32\n")
    merged = settings.merge(settings.read_layers({}))
    assert merged["prune"] == 0.5
    assert merged["constraints"].min_channels == 32
    assert merged["constraints"].keep_float == ("head",)
    (elsewhere / "edgekit.toml").write_text("[constraints]\nmin_channel = 32\n")
    with pytest.raises(SettingError, match="min_channels") as caught:
        settings.read_layers({})
    assert "edgekit.toml" in caught.value.message


def test_variables_of_other_uses_are_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_DATA", "/somewhere")
    monkeypatch.setenv("EDGEKIT_ROOT", "/elsewhere")
    settings.read_layers({})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("latency = 3\n", "latency_ms"),
        ("latency_ms = 'fast'\n", "latency_ms"),
        ("precision = 'int4'\n", "fp32, fp16, int8 or mixed"),
        ("latency_ms = nan\n", "latency_ms"),
        ("target = \n", "edgekit.toml"),
    ],
)
def test_a_broken_file_names_file_and_key(elsewhere, text, part) -> None:
    (elsewhere / "edgekit.toml").write_text(text)
    with pytest.raises(SettingError) as caught:
        settings.read_layers({})
    assert "edgekit.toml" in caught.value.message
    assert part in caught.value.message


def test_a_broken_variable_is_named(monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_SIZE_MB", "small")
    with pytest.raises(SettingError, match="EDGEKIT_SIZE_MB"):
        settings.read_layers({})
