"""The wheel, installed elsewhere: all that edgekit reads travels in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import jsonschema
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

pytestmark = pytest.mark.runtime
SCHEMA = "edgekit/schemas/contract.schema.json"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel of this checkout, unpacked by pip into a folder that is hard to spell."""
    place = tmp_path_factory.mktemp("whl") / "a plaсe ü"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    made = place.parent / "dist"
    offline = ["--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(made), str(ROOT)], check=True
    )
    (wheel,) = made.glob("edgekit-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(place), str(wheel)], check=True)
    return place


class Environment:
    """Runs the installed copy in a folder of its own, with no cache and no configuration."""

    def __init__(self, folder: Path, path: list[Path], *python: str) -> None:
        self.folder = folder
        self._command = [sys.executable, "-P", *python]
        self._variables = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }

    def python(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done

    def edgekit(self, *arguments: str, code: int = 0) -> str:
        return self.python("-m", "edgekit", *arguments, code=code).stdout

    def document(self, *arguments: str, code: int = 0) -> dict:
        return json.loads(self.edgekit(*arguments, "--json", code=code))


@pytest.fixture
def whole(installed, tmp_path) -> Environment:
    """With all that is installed here, torch among it."""
    return Environment(tmp_path, [installed])


@pytest.fixture
def base(installed, tmp_path) -> Environment:
    """With what the wheel itself requires, and nothing else: -S hides all other packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (metadata,) = installed.glob("edgekit-*.dist-info")
    link_requirements(Distribution.at(metadata), packages, set())
    return Environment(tmp_path, [installed, packages], "-S")


def link_requirements(of: Distribution, into: Path, seen: set[str]) -> None:
    """Link what a package requires, and what that requires, from where it is installed."""
    for requirement in map(Requirement, of.requires or []):
        if requirement.name in seen or (requirement.marker and not requirement.marker.evaluate()):
            continue
        seen.add(requirement.name)
        found = distribution(requirement.name)
        tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "/")}
        for top in tops - {"__pycache__"}:
            if not (into / top).exists():
                (into / top).symlink_to(found.locate_file(top))
        link_requirements(found, into, seen)


def test_every_file_of_the_package_is_in_the_wheel(installed) -> None:
    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)) for path in found if path.suffix != ".pyc"}

    assert files(ROOT / "edgekit") <= files(installed / "edgekit")
    assert files(ROOT / "targets") == files(installed / "edgekit" / "_targets")


def test_a_build_from_the_wheel(whole, installed) -> None:
    """With an empty cache: the runner is compiled from the source in the wheel."""
    places = (
        "native_runner.SHARED_SOURCE, native.ENGINE.source, target.built_in_folder(), "
        "edgekit.__file__"
    )
    said = whole.python(
        "-c",
        "import edgekit; from edgekit import target;"
        "from edgekit.runtimes import native_runner;"
        "from edgekit.runtimes.executorch import native;"
        f" print({places}, sep='\\n')",
    ).stdout
    assert all(line.startswith(f"{installed}/edgekit/") for line in said.splitlines()), said
    assert re.fullmatch(r"edgekit \d+\.\d+\.\d+\n", whole.edgekit("--version"))
    assert "rpi-zero2w" in whole.edgekit("targets", "list")
    doctor = whole.document("doctor")
    jsonschema.validate(doctor, json.loads((installed / SCHEMA).read_text()))
    assert doctor["ready"] is True

    whole.edgekit("init", "mine")
    arguments = ("mine/recipe.py", "--target", "x86", "--precision", "int8", "--output", "b")
    done = whole.python("-m", "edgekit", "build", *arguments, "--json")
    assert "- compiling the native runner for x86_64 (once)" in done.stderr
    assert json.loads(done.stdout)["parity"]["passed"] is True
    assert whole.document("check", "b")["emulation"]["status"] == "passed"
    assert whole.document("bench", "b", "local", "--runs", "9")["parity"]["passed"] is True


def test_without_torch(base, digits_bundle) -> None:
    """A machine that only deploys: all but building works, and building says what it needs."""
    doctor = base.document("doctor", code=1)
    states = {found["name"]: found["status"] for found in doctor["findings"]}
    assert (states["torch"], states["numpy"], states["paramiko"]) == ("missing", "ok", "ok")
    works = {ability["name"]: ability["works"] for ability in doctor["abilities"]}
    assert works["check and benchmark bundles here"]
    assert works["deploy over SSH"]
    assert not works["build for x86_64"]

    bundle = str(digits_bundle)
    assert "rpi5" in base.edgekit("targets", "list")
    assert base.document("check", bundle)["emulation"]["status"] == "passed"
    assert base.document("deploy", bundle, "local")["name"] == "digits"
    assert base.document("bench", bundle, "local", "--runs", "9")["parity"]["passed"] is True
    base.edgekit("init", "mine")
    for arguments in (("build", "mine/recipe.py", "--target", "x86"), ("eval", bundle, "local")):
        refused = base.document(*arguments, code=1)
        assert refused["error"] == "MissingExtraError", refused
        assert "edgekit doctor" in refused["hint"]
