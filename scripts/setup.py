#!/usr/bin/env python3
"""Sets up .venv with everything that `make demo` and `make test` need. Standard library only.

python3 scripts/setup.py           the Python side
python3 scripts/setup.py --system  also what some tests need: Dask, and system packages (apt)
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
DONE = VENV / ".edgekit-installed"
BEAT_S = 4.0
# Program that must be there -> Debian packages that bring it and what it needs.
SYSTEM = {
    "qemu-aarch64": (
        "qemu-user",
        "libc6-arm64-cross",
        "libstdc++6-arm64-cross",
        "libgcc-s1-arm64-cross",
    ),
    "qemu-system-aarch64": ("qemu-system-arm",),
    "mmdebstrap": ("mmdebstrap",),
    "mke2fs": ("e2fsprogs",),
    "ssh-keygen": ("openssh-client",),
    "sshd": ("openssh-server",),
    "busybox": ("busybox",),
}
# llvm-mca, for predictions of latency: distributions have one of these, the newest is best.
LLVM = ("22", "21", "20")


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"edgekit needs Python >= 3.11; this is {sys.version.split()[0]}")
    wanted = fingerprint()
    if not (DONE.is_file() and DONE.read_text() == wanted and PYTHON.exists()):
        install()
        DONE.write_text(wanted)
    fetch_other_wheel()
    if "--system" in sys.argv[1:]:
        install_extras()
        install_system()


def fingerprint() -> str:
    """Changes when another installation is needed."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), sys.version.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def install() -> None:
    say("setting up .venv (the first time: about 2 GB, some minutes)")
    if not PYTHON.exists():
        if importlib.util.find_spec("ensurepip") is None:  # Debian splits it off
            install_packages([f"python3.{sys.version_info.minor}-venv"], "making .venv")
        run([sys.executable, "-m", "venv", str(VENV)], "making .venv")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off"]
    run([*pip, "-e", f"{ROOT}[executorch,dev]"], "installing torch, executorch and the rest")


def install_extras() -> None:
    """What tests need, and the demo does not: --workers, and the second runtime."""
    code = "import distributed, litert_torch"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, check=False)
    if found.returncode != 0:
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
        wanted = f"{ROOT}[executorch,litert,cluster,dev]"
        run([*pip, "--progress-bar=off", "-e", wanted], "installing LiteRT and Dask")
    fetch_other_wheel("litert")


def fetch_other_wheel(runtime: str = "executorch") -> None:
    """The other architecture's runtime, so that builds and tests need no network afterwards."""
    code = (
        "from edgekit.target import host_architecture;"
        "print({'x86_64': 'aarch64', 'aarch64': 'x86_64'}[host_architecture()])"
    )
    other = subprocess.run(
        [PYTHON, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    command = [str(PYTHON), "-m", f"edgekit.runtimes.{runtime}.wheel", other]
    run(command, f"{runtime} for {other}", quiet=True)


def install_system() -> None:
    """Install what is missing, as root; else name it. CI fails instead of going without."""
    # a user's PATH need not hold what is for root
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [p for name, ps in SYSTEM.items() if not shutil.which(name, path=path) for p in ps]
    if not any(shutil.which(f"llvm-mca-{version}", path=path) for version in LLVM):
        missing += llvm_packages()
    if not missing:
        return
    if can_install() or os.environ.get("CI"):
        install_packages(missing, "the tests under emulation")
    else:
        command = f"sudo apt-get install --no-install-recommends {' '.join(missing)}"
        say(f"not root: the tests that need these are skipped; to run them: {command}")


def llvm_packages() -> list[str]:
    """The newest LLVM that apt offers here; none for an older distribution, where predictions
    are estimates.
    """
    if can_install():
        update_lists()
    for version in LLVM if shutil.which("apt-cache") else ():
        name = f"llvm-{version}"
        found = subprocess.run(["apt-cache", "show", name], capture_output=True, check=False)
        if found.returncode == 0:
            return [name]
    return []


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@functools.cache
def update_lists() -> None:
    """Once a run. A mirror that is being synchronized fails for minutes, often after apt has all it
    needs: then the installation that follows decides.
    """
    for pause_s in (20, 60, 0):
        failure = failure_of(["apt-get", "update"], "apt-get update", quiet=True)
        if failure is None:
            return
        again = f"; again in {pause_s} s" if pause_s else ""
        say(f"apt-get update failed{again}: {failure.strip()[-300:]}")
        time.sleep(pause_s)


def install_packages(names: list[str], what: str) -> None:
    command = f"apt-get install -y --no-install-recommends {' '.join(names)}"
    if not can_install():
        sys.exit(f"{what} needs system packages: sudo {command}")
    say(f"{what} needs system packages: {' '.join(names)}")
    update_lists()
    run(command.split(), command, quiet=True)


def run(command: list[str], title: str, quiet: bool = False) -> None:
    """Run a command, and end the set-up if it fails."""
    failure = failure_of(command, title, quiet)
    if failure is not None:
        sys.exit(failure + f"\nfailed: {title}: {' '.join(command)}")


def failure_of(command: list[str], title: str, quiet: bool = False) -> str | None:
    """Run a command; its last lines if it fails. Lines appear as they come, and a sign of life
    where it is silent.
    """
    say(title)
    last, over = [time.monotonic()], threading.Event()
    threading.Thread(target=beat, args=(title, last, over), daemon=True).start()
    lines = []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        last[0] = time.monotonic()
        lines.append(line)
        if not quiet and line.lstrip().startswith(("Collecting", "Downloading", "Installing")):
            print("  " + line.strip()[:100], flush=True)
    over.set()
    return "".join(lines[-30:]) if process.wait() != 0 else None


def beat(title: str, last: list[float], over: threading.Event) -> None:
    start = time.monotonic()
    while not over.wait(BEAT_S):
        if time.monotonic() - last[0] >= BEAT_S:
            print(f"  ... {title}: {time.monotonic() - start:.0f} s", flush=True)


def say(text: str) -> None:
    print(f"- {text}", flush=True)


if __name__ == "__main__":
    main()
