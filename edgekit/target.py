"""Targets: facts about devices, each read from a TOML file."""

from __future__ import annotations

import difflib
import platform
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, Field, ValidationError, model_validator

from edgekit.budget import BudgetLimits
from edgekit.errors import RuntimeFailure, TargetError
from edgekit.frozen import Frozen
from edgekit.values import RuntimeName

Architecture = Literal["x86_64", "aarch64", "armv7l"]
# What kernels report (uname -m) under a system of each architecture. A 32-bit system may run on a
# 64-bit kernel.
MACHINES: dict[Architecture, tuple[str, ...]] = {
    "x86_64": ("x86_64", "amd64"),
    "aarch64": ("aarch64", "arm64"),
    "armv7l": ("armv7l", "armv8l", "aarch64", "arm64"),
}
# Features of cores that compute in half precision, as Linux names them.
HALF_PRECISION = ("asimdhp", "avx512_fp16")


PythonVersion = Annotated[str, Field(pattern=r"^3\.\d{1,2}$")]


class Target(Frozen):
    """Facts about a device. ``memory_mb`` is the board's RAM (1 MB = 1,000,000 bytes)."""

    name: str
    description: str = ""
    architecture: Architecture
    cpu: str = Field(min_length=1, description="QEMU's and GCC's name for the core")
    features: tuple[str, ...] = Field(
        default=(), description="CPU flags, as Linux names them in /proc/cpuinfo"
    )
    cores: int = Field(ge=1, le=1024)
    threads: int = Field(ge=1, le=256, description="threads that inference uses")
    clock_ghz: float | None = Field(default=None, gt=0)
    memory_mb: float | None = Field(default=None, gt=0)
    glibc: str = Field(pattern=r"^2\.\d{1,3}$", description="the C library on the device")
    runtimes: tuple[RuntimeName, ...] = Field(min_length=1)
    pythons: tuple[PythonVersion, ...] = Field(
        default=(), description="the device's Python for tflite; several: any of them"
    )
    root: str | None = Field(
        default=None,
        pattern=r"^~?/[^\n]*$",
        description="the store's folder on the device, if EDGEKIT_ROOT is not set",
    )
    budgets: BudgetLimits = BudgetLimits()

    @model_validator(mode="after")
    def _threads_fit_cores(self) -> Target:
        if self.threads > self.cores:
            raise ValueError(f"threads ({self.threads}) must not exceed cores ({self.cores})")
        return self

    @property
    def computes_half(self) -> bool:
        return computes_half(self.features)


def computes_half(features: Iterable[str]) -> bool:
    """Whether cores compute in half precision. Others convert every value to float32."""
    return not set(HALF_PRECISION).isdisjoint(features)


def built_in_folder() -> Path:
    """The folder of the shipped targets: in an installed package, or beside it in a checkout."""
    packaged = Path(__file__).parent / "_targets"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "targets"


def user_folder() -> Path:
    return Path(platformdirs.user_config_dir("edgekit", appauthor=False)) / "targets"


def target_files() -> dict[str, Path]:
    """Target's name -> file. ./targets overrides the user's folder, which overrides built-in."""
    files: dict[str, Path] = {}
    for folder in (built_in_folder(), user_folder(), Path("targets")):
        for path in sorted(folder.glob("*.toml")):
            files[path.stem] = path
    return files


def load_target(name_or_path: str) -> Target:
    """Read a target by name, or by the path of a TOML file.

    Raises TargetError for an unknown name, with similar ones, or a file that is not a target.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return read_target(Path(name_or_path))
    files = target_files()
    if name_or_path not in files:
        here = [f"./{name_or_path}.toml"] if Path(f"{name_or_path}.toml").is_file() else []
        near = here or difflib.get_close_matches(name_or_path, files, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "edgekit targets list shows them"
        raise TargetError(f"there is no target named '{name_or_path}'", hint)
    return read_target(files[name_or_path])


def read_target(path: Path) -> Target:
    """Read and validate one TOML file. Its stem is the target's name."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TargetError(
            f"the target file {path} does not exist", "edgekit targets list shows the known ones"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"the target file {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"the target file {path} is not valid TOML: {error}") from None
    if "name" in data:
        raise TargetError(f"{path}: name: the file's name is the target's; remove this key")
    try:
        return Target.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        raise TargetError(
            f"the target file {path} is not valid:\n" + explain_validation(error, Target),
            "docs/targets.md lists every key; edgekit targets show rpi4 prints an example",
        ) from None


def explain_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each wrong key: its name, what is wrong, the allowed values or keys."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(file)"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            allowed = sorted(k for k in model.model_fields if k != "name")
            text = f"unknown key; allowed are {', '.join(allowed)}"
        elif item["type"] == "missing":
            text = "this key is missing"
        else:
            text += f" (it is {item['input']!r})"
        lines.append(f"  {key}: {text}")
    return "\n".join(lines)


def host_architecture() -> Architecture:
    """This host's architecture. Raises RuntimeFailure if edgekit has no runner for it."""
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return "x86_64"
    if machine in ("aarch64", "arm64"):
        return "aarch64"
    raise RuntimeFailure(f"edgekit builds on x86-64 and aarch64 Linux, not on {machine}")
