"""Exports the models of models.py into a folder: export.py FOLDER [NAME...]. Needs no edgekit."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import stubs
import torch

stubs.describe_torchvision()
from models import MODELS, Inputs, Model  # noqa: E402

CALIBRATION, FRESH = 25, 12


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(MODELS)
    if unknown := set(names) - set(MODELS):
        sys.exit(f"no model: {', '.join(sorted(unknown))}; there are: {', '.join(MODELS)}")
    warnings.simplefilter("ignore")
    failed = [name for name in names if not exported(name, MODELS[name], folder)]
    if failed:
        sys.exit(f"not exported: {', '.join(failed)}")


def exported(name: str, model: Model, folder: Path) -> bool:
    try:
        save(name, model, folder)
    except Exception:
        traceback.print_exc()
        return False
    print(f"exported {name}", file=sys.stderr, flush=True)
    return True


def save(name: str, model: Model, folder: Path) -> None:
    torch.manual_seed(0)
    network = model.make(model.draw)
    generator = torch.Generator().manual_seed(1)
    drawn = [model.draw(generator) for _ in range(1 + CALIBRATION + FRESH)]
    with torch.no_grad():
        outputs = [run(network, model, one) for one in drawn[1 + CALIBRATION :]]
        args, kwargs = arguments(model, drawn[0])
        program = torch.export.export(network, args, kwargs)
    torch.export.save(program, folder / f"{name}.pt2")
    np.savez(folder / f"{name}.npz", **stacked(drawn[1 : 1 + CALIBRATION]))
    np.savez(folder / f"{name}.fresh.npz", **stacked(drawn[1 + CALIBRATION :]), **stacked(outputs))
    about = {"what": model.what, "torch": torch.__version__}
    (folder / f"{name}.json").write_text(json.dumps(about) + "\n")


def run(network: torch.nn.Module, model: Model, inputs: Inputs) -> Inputs:
    """Outputs in the order of their place in the model's structure."""
    args, kwargs = arguments(model, inputs)
    leaves = torch.utils._pytree.tree_leaves(network(*args, **kwargs))
    return {f"output_{index}": leaf for index, leaf in enumerate(leaves)}


def arguments(model: Model, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), dict(inputs)) if model.keywords else (tuple(inputs.values()), {})


def stacked(items: list[Inputs]) -> dict[str, np.ndarray[Any, Any]]:
    """Along a new first dimension of items, the batch dimension of 1 dropped."""
    return {key: torch.cat([one[key] for one in items]).numpy() for key in items[0]}


if __name__ == "__main__":
    main()
