"""Exports models by the packages that people take them from, each as a .pt2 with typical inputs.

python scripts/export_packages.py                     all of them, into build/packages
python scripts/export_packages.py timm_mobileone_s0 yolo11n
python scripts/export_packages.py --environment ~/packages --output ~/pt2

The packages live in an environment of their own (by default .venv-packages, 2 GB, made where it
is missing), which edgekit is not part of: what passes to edgekit is files. NAME.pt2 is the
program, NAME.npz are calibration inputs, NAME.fresh.npz further inputs and the outputs of torch,
NAME.json says what it is. Then:

edgekit build build/packages/NAME.pt2 --calibration build/packages/NAME.npz --target rpi4

torchvision, facenet-pytorch, torchcrepe and ultralytics are installed without what they require:
those requirements ask for another torch, or for parts that an export does not use
(packages/stubs.py lists these). scikit-image is there for its photographs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPORT = ROOT / "scripts" / "packages" / "export.py"
# The same torch as edgekit's: an exported program is read by the version that wrote it.
PACKAGES = (
    "torch>=2.13,<2.14", "numpy>=2,<3", "scipy", "pillow", "pyyaml", "requests", "tqdm", "typer",
    "psutil", "polars", "matplotlib", "opencv-python-headless", "packaging", "regex",
    "huggingface_hub>=1.31,<3", "tokenizers>=0.23.1,<0.24", "safetensors>=0.8",
)  # fmt: skip
ALONE = (
    "torchvision==0.28.0", "timm==1.0.31", "transformers==5.24.0", "ultralytics==8.4.190",
    "ultralytics-thop==2.2.3", "ultralytics-platform==0.1.99", "facenet-pytorch==2.6.0",
    "torchcrepe==0.0.24", "scikit-image==0.26.0",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="all without")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-packages")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "packages")
    options = parser.parse_args()
    python = prepared(options.environment.absolute())
    options.output.mkdir(parents=True, exist_ok=True)
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment = outside | {"YOLO_CONFIG_DIR": str(options.environment), "YOLO_OFFLINE": "1"}
    command = [python, EXPORT, options.output.absolute(), *options.names]
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def prepared(folder: Path) -> Path:
    """The environment's Python; installed where that was not done yet."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join((*PACKAGES, *ALONE))
    if not done.is_file() or done.read_text() != wanted:
        print(f"installing the packages into {folder}", file=sys.stderr, flush=True)
        if not python.exists():
            venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--progress-bar=off"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        done.write_text(wanted)
    return python


if __name__ == "__main__":
    main()
