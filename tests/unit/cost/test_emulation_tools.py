"""Which QEMU and which LLVM a prediction uses, and what is wrong with the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.cost.emulation.plugin import plugin_api
from edgekit.cost.emulation.tools import TOOLS, find_llvm, find_plugin_emulator
from edgekit.device.qemu import Emulator

EMULATOR, LLVM, _ = TOOLS
QEMU_TEXT = """#!/bin/sh
case $1 in
  --version) echo "qemu-aarch64 version {version} (Debian)" ;;
  -cpu) echo "Available CPUs:"; echo "  cortex-a53"; echo "  cortex-a72"; echo "  {newest}" ;;
  -h) echo "-g port"; echo "{plugin}" ;;
esac
"""
LLVM_TEXT = """#!/bin/sh
echo "  Debian LLVM version {version}.1.8"
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Adds a folder with programs to the end of PATH, which is empty at first."""
    folders: list[str] = []

    def add(**programs: str) -> Path:
        folder = tmp_path / f"bin{len(folders)}"
        folder.mkdir()
        for name, text in programs.items():
            file = folder / name.replace("_", "-")
            file.write_text(text)
            file.chmod(0o755)
        folders.append(str(folder))
        monkeypatch.setenv("PATH", os.pathsep.join(folders))
        return folder

    monkeypatch.setenv("PATH", "")
    return add


def qemu(version: str, *, plugins: bool, newest: str = "cortex-a76") -> str:
    plugin = "-plugin QEMU_PLUGIN" if plugins else ""
    return QEMU_TEXT.format(version=version, newest=newest, plugin=plugin)


def test_nothing_is_installed(path) -> None:
    assert [tool.problem() for tool in TOOLS] == [None, None, None]
    assert EMULATOR.find() is LLVM.find() is None


def test_a_qemu_without_plugins_is_not_used(path) -> None:
    path(qemu_aarch64=qemu("10.0.2", plugins=False))
    assert EMULATOR.find() is None
    assert "10.0.2" in EMULATOR.problem() and "plugins" in EMULATOR.problem()


def test_another_qemu_on_the_path_is_used(path) -> None:
    path(qemu_aarch64=qemu("10.0.2", plugins=False))
    folder = path(qemu_aarch64=qemu("7.2.22", plugins=True))
    assert find_plugin_emulator().program == str(folder / "qemu-aarch64")
    assert EMULATOR.problem() is None


def test_a_qemu_that_lacks_a_core(path) -> None:
    path(qemu_aarch64=qemu("6.2.0", plugins=True, newest="max"))
    assert "6.2.0" in EMULATOR.find()
    assert "cortex-a76" in EMULATOR.problem() and "7.1" in EMULATOR.problem()


def test_an_llvm_that_is_too_old(path) -> None:
    path(llvm_mc=LLVM_TEXT.format(version=14), llvm_mca=LLVM_TEXT.format(version=14))
    assert LLVM.find() is None
    assert "14" in LLVM.problem() and "20" in LLVM.problem()
    path(llvm_mc_22=LLVM_TEXT.format(version=22), llvm_mca_22=LLVM_TEXT.format(version=22))
    assert find_llvm().version == 22
    assert LLVM.problem() is None


@pytest.mark.parametrize(
    ("version", "api"),
    [("6.2.0", 1), ("7.2.22", 1), ("8.2.2", 1), ("9.0.2", 2), ("9.1.0", 3), ("11.1.3", 3)],
)
def test_the_interface_of_each_qemu(version: str, api: int) -> None:
    assert plugin_api(Emulator("/usr/bin/qemu-aarch64", version, frozenset())) == api
