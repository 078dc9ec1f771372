"""The commands as a user types them; their documents against the contract's schema."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import jsonschema
import pytest
from conftest import DIGITS, ROOT, run_edgekit

pytestmark = pytest.mark.runtime
SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())


def document(done) -> dict:
    parsed = json.loads(done.stdout)
    jsonschema.validate(parsed, SCHEMA)
    return parsed


def test_build_check_bench_documents(edgekit_command, tmp_path) -> None:
    built = edgekit_command(
        "build", str(DIGITS), "--target", "x86", "--output", "b", "--max-drop", "1", "--json"
    )
    assert built.returncode == 0, built.stderr
    first = document(built)
    assert first["schema"] == "edgekit.build/1"
    assert first["bundle"] == str(tmp_path / "b")
    assert first["verdict"] == "fits"
    assert "- lowering int8" in built.stderr
    checked = edgekit_command("check", "b", "--size-mb", "0.001", "--json")
    assert checked.returncode == 3
    second = document(checked)
    assert second["schema"] == "edgekit.check/1"
    asked = {row["name"]: row["asked_by"] for row in second["budgets"]}
    assert asked["size_mb"] == asked["accuracy_drop"] == "flag"
    unknown = edgekit_command("check", "b", "--latency-ms", "1000", "--json")
    assert (unknown.returncode, document(unknown)["verdict"]) == (5, "unknown")
    benched = edgekit_command("bench", "b", "local", "--runs", "9", "--warmup", "0", "--json")
    assert benched.returncode == 0, benched.stderr
    third = document(benched)
    assert len(third["latency_ms"]["samples"]) == 9
    assert third["device"] == "local"


def test_settings_of_a_project(edgekit_command, tmp_path, monkeypatch) -> None:
    """edgekit.toml names recipe and target; a variable sets a budget; both are reported."""
    (tmp_path / "edgekit.toml").write_text(
        f'recipe = "{DIGITS}"\ntarget = "x86"\nprecision = "fp32"\nmemory_mb = 100\n'
    )
    monkeypatch.setenv("EDGEKIT_SIZE_MB", "0.5")
    done = edgekit_command("build", "--json", "--quiet")
    assert done.returncode == 3
    assert done.stderr == ""
    parsed = document(done)
    assert parsed["plan"]["precision"] == "fp32"
    assert parsed["bundle"] == str(tmp_path / "build" / "digits-x86")
    asked = {row["name"]: (row["asked_by"], row["status"]) for row in parsed["budgets"]}
    assert asked["size_mb"] == ("environment", "missed")
    assert asked["peak_memory_mb"] == ("edgekit.toml", "ok")


def test_init_builds_as_it_is(edgekit_command, tmp_path) -> None:
    done = edgekit_command("init", "mine")
    assert done.returncode == 0
    assert "recipe.py" in done.stdout
    again = edgekit_command("init", "mine")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    built = run_edgekit("build", "--target", "x86", "--json", cwd=tmp_path / "mine")
    assert built.returncode == 0, built.stderr
    assert document(built)["bundle"] == str(tmp_path / "mine" / "build" / "mine-x86")


def test_json_stdout_is_one_document_whatever_a_recipe_prints(edgekit_command, tmp_path) -> None:
    (tmp_path / "recipe.py").write_text(
        "import os, torch\nprint('hello from the recipe')\nos.write(1, b'and from C')\n"
        "def model():\n    return torch.nn.Linear(4, 3)\n"
        "def example_inputs():\n    return (torch.rand(1, 4),)\n"
    )
    done = edgekit_command("build", "--target", "x86", "--json")
    assert done.returncode == 0, done.stderr
    document(done)
    assert "hello from the recipe" in done.stderr
    assert "and from C" in done.stderr


def test_text_is_for_people(edgekit_command, digits_bundle) -> None:
    checked = edgekit_command("check", str(digits_bundle))
    assert checked.returncode == 0
    for part in ("int8 chosen", "99.20 in torch", "none outside", "fits", "size_mb"):
        assert part in checked.stdout
    benched = edgekit_command("bench", str(digits_bundle), "local", "--runs", "30")
    for part in ("median", "outside the operators", "Convolution", "peak", "kernel", "|"):
        assert part in benched.stdout
    assert "\x1b[" not in checked.stdout + benched.stdout


def test_libraries_print_nothing_into_an_unchanged_build(edgekit_command, tmp_path) -> None:
    command = ("build", str(DIGITS), "--target", "x86", "--effort", "quick", "--output")
    edgekit_command(*command, str(tmp_path / "first"))
    again = edgekit_command(*command, str(tmp_path / "second"))
    assert again.returncode == 0
    assert [line for line in again.stderr.splitlines() if not line.startswith(("- ", "  "))] == []


def test_bench_refuses_a_pi_s_bundle(edgekit_command, digits_arm_bundle) -> None:
    done = edgekit_command("bench", str(digits_arm_bundle), "local")
    assert done.returncode == 1
    assert "the device is x86_64, the bundle is for aarch64" in done.stderr


def test_targets(edgekit_command) -> None:
    listed = edgekit_command("targets", "list")
    assert listed.returncode == 0
    for name in ("x86", "rpi3", "rpi4", "rpi5", "rpi-zero2w"):
        assert name in listed.stdout
    shown = edgekit_command("targets", "show", "rpi4")
    assert 'cpu = "cortex-a72"' in shown.stdout
    unknown = edgekit_command("targets", "show", "rpi")
    assert unknown.returncode == 1
    assert "rpi4" in unknown.stderr


def test_probe_writes_a_target_that_builds(edgekit_command, tmp_path) -> None:
    probed = document(edgekit_command("targets", "probe", "local", "--json"))
    assert probed["schema"] == "edgekit.probe/1"
    assert probed["output"] is None
    written = document(
        edgekit_command("targets", "probe", "local", "--output", "my.toml", "--json")
    )
    assert written["output"] == str(tmp_path / "my.toml")
    assert written["target"] == probed["target"]
    shown = edgekit_command("targets", "show", "./my.toml")
    assert shown.returncode == 0, shown.stderr
    assert f'glibc = "{probed["hardware"]["glibc"]}"' in shown.stdout
    (tmp_path / "recipe.py").write_text(
        "import torch\ndef model():\n    return torch.nn.Linear(4, 3)\n"
        "def example_inputs():\n    return (torch.rand(1, 4),)\n"
    )
    built = edgekit_command("build", "--target", "./my.toml", "--device", "local", "--json")
    assert built.returncode == 0, built.stderr
    assert document(built)["target"] == "my"


def test_version_and_help(edgekit_command) -> None:
    import edgekit

    assert edgekit_command("--version").stdout == f"edgekit {edgekit.__version__}\n"
    assert "build" in edgekit_command("--help").stdout
    assert edgekit_command("nonsense").returncode == 2


def commands_of(page) -> list[str]:
    """The lines after '$ ' in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line[:2] == "$ "]


# Pages that reach a Pi are run by tests/emulated/test_pi_devices.py.
OF_A_PI = {"devices.md", "ssh.md", "emulated-pi.md"}
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
PAGES = [page for page in PAGES if page.name not in OF_A_PI]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_docs_run(page, edgekit_command, tmp_path) -> None:
    """In order, in a folder with the examples beside it; `# exit N` says what they end with."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
        if "def example_inputs" in block and "class Net" in block:
            (tmp_path / "two_inputs.py").write_text(block)
        del number
    prepare_bundles(page, edgekit_command)
    for command in commands_of(page):
        words = shlex.split(command, comments=True)
        expected = int(match[1]) if (match := re.search(r"# exit (\d)", command)) else 0
        if words[0] == "edgekit":
            done = edgekit_command(*words[1:])
            assert done.returncode == expected, f"{command}\n{done.stderr}"
        elif words[0] == "cd":
            import os

            os.chdir(tmp_path / words[1])
        else:
            assert words[0] in ("make", "git", "pip", "python", "python3"), command


def prepare_bundles(page, edgekit_command) -> None:
    """Pages that begin with a bundle of the digits take it as given."""
    first = next((c for c in commands_of(page) if "build/digits" in c or " build " in c), "")
    if match := re.search(r"build/digits-(\w+)", first):
        digits = ["build", "examples/digits/recipe.py", "--target", match[1]]
        assert edgekit_command(*digits).returncode == 0
