"""Trained weights in the stage cache, and the checkpoint of an unfinished training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from edgekit.cache import load_stage, stage_draft, store_stage, write_atomically
from edgekit.compress.training.loop import State
from edgekit.plan import Training

WEIGHTS, FOUND = "weights.safetensors", "found.json"

CHECKPOINT = "checkpoint.safetensors"

KIND = "trained"

Scores = tuple[tuple[int, float], ...]


class Checkpoint:
    """The state of a training in the cache, until it is done. Without a key nothing is stored."""

    def __init__(self, key: str | None, limit_s: float | None = None) -> None:
        self._path = None
        if key is not None:
            name = key if limit_s is None else f"{key}-{limit_s:g}s"
            self._path = stage_draft(KIND, name) / CHECKPOINT

    def load(self) -> State | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                header = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception:  # damaged: training starts again
            return None
        scores = tuple((int(step), float(score)) for step, score in header["scores"])
        return State(tensors, header["steps"], header["step"], header["best_step"], scores)

    def save(self, state: State) -> None:
        if self._path is None:
            return
        header = {
            "steps": state.steps,
            "step": state.step,
            "best_step": state.best_step,
            "scores": state.scores,
        }
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        with suppress(OSError):  # a full disk or a read-only folder must not end the training
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, save(tensors, {"state": json.dumps(header)}))

    def remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def load_weights(
    key: str | None, weights: Mapping[str, torch.Tensor]
) -> tuple[Training, Scores] | None:
    folder = load_stage(KIND, key) if key is not None else None
    if folder is None:
        return None
    try:
        tensors = load_file(folder / WEIGHTS)
        training, scores = json.loads((folder / FOUND).read_bytes())
    except Exception:  # cleared by another process, or unreadable
        return None
    with torch.no_grad():
        for name, tensor in tensors.items():
            weights[name].copy_(tensor)
    pairs = tuple((int(step), float(score)) for step, score in scores)
    return Training.model_validate(training), pairs


def keep_weights(
    key: str | None, weights: Mapping[str, torch.Tensor], done: Training, scores: Scores
) -> None:
    def fill(draft: Path) -> None:
        save_file({n: w.detach().contiguous() for n, w in weights.items()}, draft / WEIGHTS)
        (draft / FOUND).write_text(json.dumps([done.model_dump(), scores]))

    if key is not None:
        store_stage(KIND, key, fill)
