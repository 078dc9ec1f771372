"""The executorch wheel of an architecture, with headers and libraries for the native runner.

For this host it is the installed package. For the other architecture pip fetches it once, with a
pinned hash, into a folder of the Python environment:

    python -m edgekit.runtimes.executorch.wheel aarch64
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgekit.cache import file_digest, make_folder_once
from edgekit.errors import MissingExtraError, RuntimeFailure
from edgekit.progress import Progress, Silent
from edgekit.target import Architecture, host_architecture

VERSION = "1.5.1"
# One wheel for each architecture, for any Python version: the native libraries do not depend on
# Python, and equal inputs give equal bundles.
SHA256: dict[Architecture, str] = {
    "aarch64": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
    "x86_64": "274c28c2fe2b76acb03f9fa381537425c40e0098dcf886baf6d97a1a55ffe300",
}
KEPT = ("executorch/lib/", "executorch/include/")


def wheel_folder(architecture: Architecture, progress: Progress) -> Path:
    """The folder with ``lib`` and ``include``; fetched if it is missing."""
    if architecture == host_architecture():
        return installed_folder()
    folder = fetched_folder(architecture)
    if not folder.is_dir():
        progress.note(f"fetching the executorch wheel for {architecture} (18 MB, once)")
        with progress.stage(f"fetching the {architecture} runtime"):
            make_folder_once(folder, lambda draft: _fetch(architecture, draft))
    return folder / "executorch"


def fetched_folder(architecture: Architecture) -> Path:
    """The folder of another architecture's wheel, fetched or not."""
    wheels = Path(sys.prefix) / "share" / "edgekit" / "wheels"
    return wheels / f"executorch-{VERSION}-{architecture}"


def installed_folder() -> Path:
    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the native runner", "executorch")
    return Path(next(iter(spec.submodule_search_locations)))


def _fetch(architecture: Architecture, draft: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(architecture, Path(folder))
        if file_digest(wheel) != SHA256[architecture]:
            raise RuntimeFailure(
                f"{wheel.name} does not have the pinned SHA-256 digest",
                "fetch it again; if that fails too, check the package index",
            )
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(KEPT):
                    archive.extract(name, draft)


def _download(architecture: Architecture, folder: Path) -> Path:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"executorch=={VERSION} --hash=sha256:{SHA256[architecture]}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
        "--only-binary=:all:", "--platform", f"manylinux_2_28_{architecture}",
        "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
        "--dest", str(folder), "--requirement", str(pinned),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeFailure(
            f"pip could not fetch executorch {VERSION} for {architecture}: {last}",
            "with a network connection, run "
            f"{sys.executable} -m edgekit.runtimes.executorch.wheel {architecture}",
        )
    return wheels[0]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(wheel_folder(name, Silent()))  # type: ignore[arg-type]
