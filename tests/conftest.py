"""What all tests share: places, the example, bundles built once, and what each marker needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.process.waiting import wait_passively

wait_passively()  # before any test imports torch
# Workers of pytest-xdist, and shells in the background, start with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of the tests in ssh/; a conftest.py of theirs would hide this one from `from conftest import`.
pytest_plugins = ["ssh_fixtures"]

ROOT = Path(__file__).resolve().parent.parent
DOUBLES = ROOT / "tests" / "doubles"
DIGITS = ROOT / "examples" / "digits" / "recipe.py"
SYSROOT = Path("/usr/aarch64-linux-gnu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run. CI never skips: there it fails instead."""
    reasons = {
        "runtime": _no_runtime(), "emulated": _no_emulation(), "pi": _no_pi(), "ssh": _no_ssh(),
    }  # fmt: skip
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker) and not os.environ.get("CI"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_runtime() -> str | None:
    try:
        import executorch  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        return "the executorch extra is not installed"
    return None


def _no_emulation() -> str | None:
    if shutil.which("qemu-aarch64") and SYSROOT.is_dir():
        return None
    return "qemu-user and an arm64 cross libc are not installed (make test says which)"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache without stages, so that a test builds what it says it builds."""
    with pytest.MonkeyPatch.context() as patch:
        empty_cache(tmp_path_factory.mktemp("cache"), patch)
        yield


@pytest.fixture
def fresh_cache(tmp_path_factory, monkeypatch) -> Path:
    """As own_cache, for one test: nothing that another test built is in it."""
    return empty_cache(tmp_path_factory.mktemp("cache"), monkeypatch)


def empty_cache(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make ``folder`` the cache; what takes minutes to make anew is this machine's own."""
    from edgekit.cache import cache_folder

    shared = cache_folder().resolve()
    patch.setenv("XDG_CACHE_HOME", str(folder))
    cache_folder().mkdir()
    for name in ("runners", "zig", "emulated-pi", "roots", "pythons"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (cache_folder() / name).symlink_to((shared / name).resolve())
    return cache_folder()


@pytest.fixture(scope="session", autouse=True)
def own_data(tmp_path_factory):
    """No calibration of whoever runs the tests predicts a latency in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory):
    """Where ``local`` keeps what it is given: not in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_ROOT", str(tmp_path_factory.mktemp("store")))
        yield


def _no_ssh() -> str | None:
    from ssh_server import missing

    return missing()


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory):
    """A real OpenSSH server for the whole session (ssh_server.py): leave it as it was found."""
    from ssh_server import SshServer

    with SshServer(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def ssh_device(ssh_server, monkeypatch) -> str:
    """A DEVICE that is reached over SSH, with $HOME set so that it is."""
    monkeypatch.setenv("HOME", str(ssh_server.home))
    return ssh_server.device


def _no_pi() -> str | None:
    from emulated.pi import no_pi

    return no_pi()


@pytest.fixture(scope="session")
def pi4():
    """An emulated Pi 4 for the whole session (emulated/pi.py): leave it as it was found."""
    from emulated.pi import booted

    with booted("pi4") as pi:
        yield pi


@pytest.fixture
def edgekit_command(tmp_path, monkeypatch):
    """Run the real command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return run_edgekit(*arguments, **options)

    return run


def run_edgekit(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, **options
    )


def documented(*arguments: str, code: int = 0) -> dict:
    """Run a command with --json; give its document, which the contract's schema holds."""
    import jsonschema

    schema = ROOT / "edgekit" / "schemas" / "contract.schema.json"
    done = run_edgekit(*arguments, "--json")
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(schema.read_text()))
    return document


def build_with_other_weights(target: str, folder: Path) -> Path:
    """The digits with every weight a little larger: another model of the same name."""
    import edgekit

    for path in DIGITS.parent.iterdir():
        if path.is_file():
            shutil.copy(path, folder / path.name)
    recipe = folder / "recipe.py"
    recipe.write_text(
        recipe.read_text().replace("def model()", "def first_model()")
        + "\n\ndef model():\n    net = first_model()\n    with torch.no_grad():\n"
        "        for weight in net.parameters():\n            weight.mul_(1.01)\n    return net\n"
    )
    edgekit.build(recipe, target=target, name="digits", output=folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory) -> Path:
    """The digits, int8, for x86: built once. Copy it before changing it."""
    return _build_digits(tmp_path_factory, "x86")


@pytest.fixture(scope="session")
def digits_arm_bundle(tmp_path_factory) -> Path:
    return _build_digits(tmp_path_factory, "rpi4")


def _build_digits(tmp_path_factory, target: str) -> Path:
    import edgekit

    output = tmp_path_factory.mktemp("digits") / f"digits-{target}"
    edgekit.build(DIGITS, target=target, output=output)
    return output


@pytest.fixture
def bundle(digits_bundle, tmp_path) -> Path:
    """A copy of the digits bundle that a test may damage."""
    return Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))


@pytest.fixture
def write_recipe(tmp_path):
    """Write a recipe file from its source and give its path."""

    def write(source: str, name: str = "recipe.py") -> Path:
        path = tmp_path / name
        path.write_text("import torch\nfrom torch import nn\n" + source)
        return path

    return write


@pytest.fixture(scope="module")
def numpy_entry(tmp_path_factory):
    """A second runtime, in Python, in LiteRT's place: slower, and with far more memory."""
    import numpy_runtime

    from edgekit.runtimes.registry import RUNTIMES

    with pytest.MonkeyPatch.context() as patch:
        entry = numpy_runtime.entry(tmp_path_factory.mktemp("numpy"))
        patch.setitem(RUNTIMES, "litert", entry)
        yield entry
