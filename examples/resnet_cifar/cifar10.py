"""The common part of the three ResNets: their weights, and CIFAR-10 from JPEG files.

Every tenth image of the test set is for calibration, the others for evaluation. All files are in
the folder EDGEKIT_DATA (docs/examples.md).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from resnet import ResNet

from edgekit.data import data_path
from edgekit.metrics import top1

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
EVERY = 10
BATCH = 128


def trained(depth: int) -> ResNet:
    net = ResNet(depth)
    weights = data_path(f"resnet_cifar10/resnet{depth}.pt")
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net


def example_inputs() -> tuple[torch.Tensor, ...]:
    return next(iter(calibration()))


def calibration() -> Iterable[tuple[torch.Tensor, ...]]:
    jpegs, _ = stored("test")
    return ((decoded([jpeg]),) for jpeg in jpegs[::EVERY])


def evaluate(predict) -> float:
    jpegs, labels = stored("test")
    judged = torch.tensor([index for index in range(len(jpegs)) if index % EVERY])
    batches = (decoded([jpegs[index] for index in batch]) for batch in judged.split(BATCH))
    return top1(predict, batches, labels[judged])


def training() -> Iterable[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """One epoch of shuffled batches; half of the images are mirrored."""
    jpegs, labels = stored("train")
    for batch in torch.randperm(len(jpegs)).split(BATCH):
        images = decoded([jpegs[index] for index in batch])
        mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
        yield (torch.where(mirrored, images.flip(-1), images),), labels[batch]


def input_sizes() -> tuple[int, ...]:
    return 28, 24, 20, 16


@cache
def stored(part: str) -> tuple[list[bytes], torch.Tensor]:
    """The JPEG files of "test" or "train", and their classes (N,)."""
    with np.load(data_path(f"cifar10_jpeg/{part}.npz"), allow_pickle=False) as file:
        data, offsets, labels = file["jpeg"].tobytes(), file["offset"].tolist(), file["label"]
    jpegs = [data[start:end] for start, end in pairwise(offsets)]
    return jpegs, torch.from_numpy(labels).long()


def decoded(jpegs: Iterable[bytes]) -> torch.Tensor:
    """Normalised RGB, float32 (N, 3, 32, 32)."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 255 - MEAN) / STD
