"""doctor: every finding with its command, and what follows from them."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import jsonschema
import pytest
from conftest import ROOT

from edgekit.commands.doctor import diagnose
from edgekit.cost.emulation.tools import TOOLS, Tool
from edgekit.device.qemu import Emulator, Sysroot
from edgekit.documents.host import DoctorDocument, Finding
from edgekit.errors import EdgekitError
from edgekit.host import findings, prediction
from edgekit.host import packages as installed
from edgekit.host.packages import Trouble
from edgekit.progress import Silent
from edgekit.report.doctor import render_doctor
from edgekit.runtimes.executorch.wheel import VERSION
from edgekit.runtimes.native_runner import Engine
from edgekit.runtimes.wheel import RuntimeWheel

SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())
WHOLE = {
    "numpy": "2.4.6",
    "paramiko": "5.1.0",
    "torch": "2.13.0+cpu",
    "executorch": "1.5.1",
    "torchao": "0.18.0",
    "ziglang": "0.17.1",
    "safetensors": "0.6.2",
    "torch-pruning": "1.6.1",
    "pillow": "13.0.0",
    "distributed": "2026.8.0",
    "litert-torch": "0.10.0",
    "ai-edge-quantizer": "0.10.0",
    "ai-edge-litert": "2.3.0",
    "pip": "26.0",
}
CPUS = frozenset({"cortex-a53", "cortex-a72", "cortex-a76"})
LITERT = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert")
EMULATOR = Emulator("/usr/bin/qemu-aarch64", "7.2.22", CPUS)
LIBRARIES = Sysroot(Path("/usr/aarch64-linux-gnu"), (2, 36), (3, 4, 30))


class Host:
    """A host that has everything; a test takes something away, and looks."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions = dict(WHOLE)
        self.errors: dict[str, Trouble] = {}
        self.emulator: Emulator | None = EMULATOR
        self.libraries: Sysroot | None = LIBRARIES
        self.wheel = tmp_path
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(installed, "version", self.version)
        monkeypatch.setattr(installed, "import_errors", lambda statements: self.errors)
        monkeypatch.setattr(findings, "host_architecture", lambda: "x86_64")
        monkeypatch.setattr(findings, "find_emulator", lambda architecture: self.emulator)
        monkeypatch.setattr(findings, "find_sysroot", lambda architecture, native: self.libraries)
        monkeypatch.setattr(
            findings, "find_python_sysroot", lambda architecture, pythons: self.libraries
        )
        monkeypatch.setattr(RuntimeWheel, "fetched_folder", lambda _, architecture: self.wheel)
        monkeypatch.setattr(Engine, "folder", lambda _, architecture: tmp_path / architecture)
        self.tools: set[str] = {tool.name for tool in TOOLS}
        self.problems: dict[str, str] = {}
        monkeypatch.setattr(prediction, "TOOLS", [self.tool(tool) for tool in TOOLS])
        monkeypatch.setattr(findings, "has_pip", lambda: "pip" in self.versions)

    def has_only_executorch(self) -> None:
        for name in LITERT:
            del self.versions[name]

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise PackageNotFoundError(name)
        return self.versions[name]

    def tool(self, real: Tool) -> Tool:
        return replace(
            real,
            find=lambda: "found" if real.name in self.tools else None,
            problem=lambda: self.problems.get(real.name),
        )

    def diagnose(self) -> DoctorDocument:
        return diagnose(Silent())

    def finding(self, name: str) -> Finding:
        return next(found for found in self.diagnose().findings if found.name == name)


@pytest.fixture
def host(tmp_path, monkeypatch) -> Host:
    return Host(tmp_path, monkeypatch)


def works(document: DoctorDocument) -> dict[str, bool]:
    return {ability.name: ability.works for ability in document.abilities}


def test_a_host_that_has_everything(host) -> None:
    document = host.diagnose()
    jsonschema.validate(json.loads(document.to_json()), SCHEMA)
    assert document.exit_code == 0
    assert document.commands == ()
    assert all(works(document).values())
    assert {found.status for found in document.findings} <= {"ok", "not_needed"}


def test_without_torch_the_command_installs_all_that_a_build_needs(host) -> None:
    for name in ("torch", "executorch", "torchao", "ziglang", *LITERT):
        del host.versions[name]
    document = host.diagnose()
    assert document.exit_code == 1
    assert [shlex.split(command) for command in document.commands] == [
        [
            *(sys.executable, "-m", "pip", "install"),
            *("torch>=2.13,<2.14", "executorch==1.5.1", "torchao==0.18.0", "ziglang==0.17.1"),
        ]
    ]
    assert works(document) == {
        "build for aarch64": False,
        "build for armv7l": False,
        "build for x86_64": False,
        "build with executorch": False,
        "build with litert": False,
        "build with tflite": False,
        "check and benchmark bundles here": True,
        "deploy over SSH": True,
        "check aarch64 bundles here": True,
        "check armv7l bundles here": True,
        "predict latency without a device": True,
        "search with several processes (--workers)": True,
    }


def test_one_runtime_is_enough(host) -> None:
    host.has_only_executorch()
    document = host.diagnose()
    assert document.ready
    assert document.commands == ()
    assert [name for name, works_here in works(document).items() if not works_here] == [
        "build for armv7l",
        "build with litert",
        "build with tflite",
    ]
    assert "litert-torch==0.10.0" in host.finding("litert-torch").command


def test_the_other_runtime_is_enough_too(host) -> None:
    for name in ("executorch", "torchao"):
        del host.versions[name]
    document = host.diagnose()
    assert document.ready
    assert [name for name, works_here in works(document).items() if not works_here] == [
        "build with executorch"
    ]


def test_the_extra_of_workers_is_missing(host) -> None:
    del host.versions["distributed"]
    document = host.diagnose()
    assert document.exit_code == 0
    assert [name for name, works_here in works(document).items() if not works_here] == [
        "search with several processes (--workers)"
    ]
    assert "distributed>=" in "".join(document.commands)


def test_tools_of_prediction_that_are_missing(host) -> None:
    host.tools = {"C compiler"}
    document = host.diagnose()
    assert document.exit_code == 0  # builds work; latency is estimated
    assert not works(document)["predict latency without a device"]
    packages = [word for command in document.commands for word in shlex.split(command)]
    assert {"qemu-user", "llvm-22"} <= set(packages)
    assert "gcc" not in packages


def test_tools_of_prediction_that_cannot_be_used(host) -> None:
    """Debian has no other QEMU to install, but a newer LLVM."""
    host.tools = {"C compiler"}
    host.problems = {"qemu-aarch64 (plugins)": "10.0.2: static", "llvm-mca": "14: too old"}
    emulator, llvm = host.finding("qemu-aarch64 (plugins)"), host.finding("llvm-mca")
    assert (emulator.status, emulator.detail) == ("wrong_version", "10.0.2: static")
    assert emulator.command is None
    assert (llvm.status, llvm.detail) == ("wrong_version", "14: too old")
    assert "llvm-22" in llvm.command
    assert not works(host.diagnose())["predict latency without a device"]


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.14.1"), ("executorch", "1.5.0"), ("torchao", "0.17.0")]
)
def test_a_version_beside_the_pin(host, name, version) -> None:
    host.has_only_executorch()
    host.versions[name] = version
    found = host.finding(name)
    assert found.status == "wrong_version"
    assert version in found.detail
    assert shlex.split(found.command)[-1].startswith(name)
    assert not host.diagnose().ready


def test_a_package_that_does_not_import(host) -> None:
    host.errors["torch"] = Trouble("RuntimeError: Numpy is not available")
    found = host.finding("torch")
    assert (found.status, found.detail) == (
        "broken",
        "2.13.0+cpu: RuntimeError: Numpy is not available",
    )
    assert "--force-reinstall --no-deps 'torch>=2.13,<2.14'" in found.command
    assert not host.diagnose().ready


def test_what_took_too_long_is_not_mended_by_installing_it_again(host) -> None:
    host.errors["torch"] = Trouble("did not import within 180 s", is_its_own=False)
    host.errors["torchao"] = Trouble("ImportError: no such name")
    found = host.finding("torch")
    assert (found.status, found.command) == ("broken", None)
    assert not host.diagnose().ready
    (command,) = host.diagnose().commands
    assert "torchao==0.18.0" in command
    assert "torch>=" not in command


def test_what_only_other_work_needs_is_not_in_the_way(host, tmp_path) -> None:
    del host.versions["paramiko"], host.versions["pillow"]
    host.emulator, host.wheel = None, tmp_path / "nowhere"
    document = host.diagnose()
    assert document.exit_code == 0
    assert [name for name, works_here in works(document).items() if works_here] == [
        "build for x86_64",
        "build with executorch",
        "build with litert",
        "build with tflite",
        "check and benchmark bundles here",
        "predict latency without a device",
        "search with several processes (--workers)",
    ]
    said = "\n".join(document.commands)
    assert "paramiko>=5.1" in said
    assert "-m edgekit.runtimes.executorch.wheel aarch64" in said
    assert "-m edgekit.runtimes.tflite.wheel armv7l" in said
    assert "apt-get install qemu-user libc6-arm64-cross" in said
    assert "pillow>=11" in said


OLD_BOARD = """
architecture = "{}"
cpu = "max"
cores = 1
threads = 1
glibc = "2.31"
runtimes = ["tflite"]
pythons = {}
"""


@pytest.mark.parametrize(
    ("architecture", "pythons", "fetched"),
    [
        ("armv7l", ["3.11"], ["3.9", "3.11"]),  # rpi3-32 is for 3.9 too
        ("aarch64", ["3.9"], ["3.9", "3.10", "3.11"]),  # rpi4 names none
        ("x86_64", ["3.10"], ["3.10"]),  # this host's own: no package here has that wheel
        ("x86_64", ["3.10", "3.13"], ["3.10"]),  # no wheel for 3.13
    ],
)
def test_the_wheels_that_the_targets_pythons_need(
    host, tmp_path, architecture, pythons, fetched
) -> None:
    (tmp_path / "targets").mkdir()
    text = OLD_BOARD.format(architecture, json.dumps(pythons))
    (tmp_path / "targets" / "old.toml").write_text(text)
    host.wheel = tmp_path / "nowhere"
    found = host.finding(f"tflite-runtime ({architecture})")
    assert found.status == "missing"
    assert shlex.split(found.command)[3:] == [architecture, *fetched]
    assert found.needed_for == (f"building for {architecture} with tflite",)
    host.wheel = tmp_path
    assert host.finding(f"tflite-runtime ({architecture})").status == "ok"


def test_no_wheel_for_an_architecture_without_such_a_target(host) -> None:
    """No built-in target runs tflite on x86_64; executorch needs no wheel for this host."""
    names = {found.name for found in host.diagnose().findings}
    assert {"tflite-runtime (aarch64)", "tflite-runtime (armv7l)"} <= names
    assert not {"tflite-runtime (x86_64)", "executorch (x86_64)"} & names


def test_only_pythons_without_a_wheel(host, tmp_path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "new.toml").write_text(OLD_BOARD.format("x86_64", '["3.13"]'))
    host.wheel = tmp_path / "nowhere"
    found = host.finding("tflite-runtime (x86_64)")
    assert (found.status, found.command) == ("ok", None)


def test_an_environment_without_pip(host) -> None:
    del host.versions["pip"]
    document = host.diagnose()
    assert document.ready
    assert [shlex.split(command) for command in document.commands] == [
        [sys.executable, "-m", "ensurepip"]
    ]


def test_the_runners_that_are_compiled_already(host, tmp_path) -> None:
    assert "compiled runners: none yet" in host.finding("cache").detail
    (tmp_path / "aarch64").mkdir()
    assert "compiled runners: aarch64" in host.finding("cache").detail


def test_an_emulator_that_does_not_know_a_target_s_cpu(host) -> None:
    host.emulator = Emulator("/usr/bin/qemu-aarch64", "5.2.0", CPUS - {"cortex-a76"})
    found = host.finding("qemu-aarch64")
    assert found.status == "wrong_version"
    assert "does not support cortex-a76" in found.detail
    assert not works(host.diagnose())["check aarch64 bundles here"]


@pytest.mark.parametrize(
    ("libraries", "status"),
    [(None, "missing"), (Sysroot(Path("/"), (2, 27), (3, 4, 25)), "wrong_version")],
)
def test_a_host_whose_libraries_do_not_run_a_runner(host, libraries, status) -> None:
    host.libraries = libraries
    assert host.finding("C++ library (x86_64)").status == status
    assert not host.diagnose().ready


def test_a_cache_that_cannot_be_written(host, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    found = host.finding("cache")
    assert found.status == "broken"
    assert str(tmp_path / "cache" / "edgekit") in found.detail
    assert not host.diagnose().ready


@pytest.mark.parametrize("closed", ["edgekit/stages", "edgekit", ""])
def test_a_cache_that_may_not_be_looked_into(host, tmp_path, monkeypatch, closed) -> None:
    """Permissions do not bind root, so the system's answer is given here."""
    folder = tmp_path / "cache" / closed
    (tmp_path / "cache" / "edgekit" / "stages").mkdir(parents=True)

    def refuse(path: Path) -> None:
        if path.is_relative_to(folder) and (path != folder or closed.endswith("stages")):
            raise PermissionError(13, "Permission denied", str(path))

    exists, listed = Path.exists, Path.iterdir
    monkeypatch.setattr(Path, "exists", lambda self: refuse(self) or exists(self))
    monkeypatch.setattr(Path, "iterdir", lambda self: refuse(self) or listed(self))
    found = host.finding("cache")
    assert found.status == "broken"
    assert "Permission denied" in found.detail
    assert "XDG_CACHE_HOME" in found.detail
    assert not host.diagnose().ready


def test_the_cache_s_size(host, tmp_path) -> None:
    kept = tmp_path / "cache" / "edgekit" / "stages" / "int8-1"
    kept.mkdir(parents=True)
    (kept / "model.pte").write_bytes(bytes(2_500_000))
    assert "2.5 MB" in host.finding("cache").detail


def test_a_temporary_folder_that_allows_nothing(host, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    found = host.finding("temporary folder")
    assert found.status == "broken"
    assert "TMPDIR" in found.detail


def test_a_setting_that_stops_every_build(host, tmp_path) -> None:
    (tmp_path / "edgekit.toml").write_text("memory = 3\n")
    found = host.finding("configuration")
    assert found.status == "broken"
    assert "memory" in found.detail
    assert not host.diagnose().ready


def test_a_target_that_cannot_be_read_stops_its_own_builds_only(host, tmp_path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "doorbell.toml").write_text('cpu = "cortex-a53"\n')
    found = host.finding("target doorbell")
    assert found.status == "broken"
    assert "architecture: this key is missing" in found.detail
    document = host.diagnose()
    assert document.ready
    assert "rpi4" in host.finding("targets").detail


def test_edgekit_run_from_a_folder(host, monkeypatch) -> None:
    def gone(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "requires", gone)
    with pytest.raises(EdgekitError, match="not installed in this environment"):
        host.diagnose()


def test_the_text_has_the_commands_in_one_piece(host, tmp_path) -> None:
    host.has_only_executorch()
    del host.versions["torch"], host.versions["executorch"]
    host.wheel = tmp_path / "nowhere"
    document = host.diagnose()
    lines = render_doctor(document).splitlines()
    assert {f"  {command}" for command in document.commands} <= set(lines)
    assert any(line.startswith("torch ") and "missing" in line for line in lines)
    assert any("no, it needs torch, executorch" in line for line in lines)


def test_the_pins_are_those_of_the_runtime() -> None:
    assert str(installed.pins(["executorch"])["executorch"].specifier) == f"=={VERSION}"


def test_packages_are_tried_in_a_process_of_their_own() -> None:
    """Whatever one does: print, fail in many lines, end Python."""
    statements = {
        "loud": "print('hello'); import os; os.write(1, b'from C')",
        "wrong": "raise ImportError('numpy.core failed\\nand more')",
        "leaves": "raise SystemExit(3)",
        "deadly": "import os; os.kill(os.getpid(), 11)",
        "after": "pass",
        "wrong too": "import nowhere_to_be_found",
    }
    assert installed.import_errors(statements) == {
        "wrong": Trouble("ImportError: numpy.core failed"),
        "leaves": Trouble("SystemExit: 3"),
        "deadly": Trouble("its import ended Python (SIGSEGV)"),
        "wrong too": Trouble("ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    }


def test_a_package_that_never_comes_back(monkeypatch) -> None:
    """Those behind it were not tried: neither works nor is broken."""
    statements = {"quick": "pass", "slow": "import time; time.sleep(60)", "behind": "pass"}
    monkeypatch.setattr(installed, "IMPORT_LIMIT_S", 2.0)
    found = installed.import_errors(statements)
    assert "quick" not in found
    assert found["slow"].message.startswith("did not import within 2 s")
    assert found["behind"].message == "not tested: slow took too long"
    assert not any(trouble.is_its_own for trouble in found.values())
