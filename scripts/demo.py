"""make demo: builds the digits example for this computer, checks it and benchmarks it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EDGEKIT = str(ROOT / ".venv" / "bin" / "edgekit")
BUNDLE = ROOT / "build" / "digits-x86"


def main() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        sys.exit("the demo measures on this computer and is built for x86-64")
    say(
        "A small network that reads handwritten digits, trained in PyTorch, becomes a bundle for",
        "an x86 computer: quantized to 8-bit integers, with a native program that runs it without",
        "Python. Asked for: at most 5 MB on disk, 32 MB of memory, 1 point of accuracy lost.",
    )
    edgekit(
        "build", "examples/digits/recipe.py", "--target", "x86", "--device", "local",
        "--size-mb", "5", "--memory-mb", "32", "--max-drop", "1",
    )  # fmt: skip
    say("The bundle on its own, checked file by file against its manifest's digests:")
    edgekit("check", str(BUNDLE))
    say("And what it does here, measured by the program that the bundle carries:")
    edgekit("bench", str(BUNDLE), "local")
    show_bundle()


def show_bundle() -> None:
    say(f"What was made, in {BUNDLE.relative_to(ROOT)}:")
    words = {
        "model.pte": "the network, int8, for the ExecuTorch runtime",
        "runner": "the native program that loads and runs it",
        "lib": "the runtime's libraries that this network needs, and no others",
        "edgekit_model.py": "how a Python application on a device opens it",
        "golden": "an input and its expected output, to check a device with",
        "manifest.json": "what is deployed: every file with its SHA-256",
        "verdict.json": "what was asked for and what was found",
    }
    for name, text in words.items():
        path = BUNDLE / name
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
        print(f"  {name:<16} {size / 1000:>8.1f} kB  {text}")
    say(
        "Next: the same for a Raspberry Pi 4 (edgekit lies in .venv/bin):",
        "  edgekit build examples/digits/recipe.py --target rpi4",
        "and for a model of your own: edgekit init my_model; see README.md.",
    )


def edgekit(*arguments: str) -> None:
    print("\n$ edgekit " + " ".join(arguments).replace(str(ROOT) + "/", ""), flush=True)
    code = subprocess.run([EDGEKIT, *arguments], cwd=ROOT, check=False).returncode
    if code != 0:
        sys.exit(code)


def say(*lines: str) -> None:
    print("\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
