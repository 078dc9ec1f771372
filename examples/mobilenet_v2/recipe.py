"""MobileNetV2 on photos of ImageNet's 1000 classes.

Every tenth photo is for calibration, the others for evaluation. Weights and photos are in the
folder EDGEKIT_DATA (docs/examples.md).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

import torch
from mobilenet_v2 import MobileNetV2
from torch import nn

from edgekit.data import data_path, images
from edgekit.metrics import top1

WEIGHTS = data_path("mobilenet_v2_100/mobilenet_v2_100.pt")
PHOTOS = data_path("imagenet_samples/images")
LABELS = data_path("imagenet_samples/labels.csv")
HALF = (0.5, 0.5, 0.5)  # these weights need pixels from -1 to 1

CALIBRATING, JUDGED = images(PHOTOS, 224, mean=HALF, std=HALF).split(every=10)


def model() -> nn.Module:
    net = MobileNetV2()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net


def example_inputs() -> tuple[torch.Tensor, ...]:
    return next(iter(turned(CALIBRATING)))


def calibration() -> Iterable[tuple[torch.Tensor, ...]]:
    return turned(CALIBRATING)


def evaluate(predict) -> float:
    with LABELS.open() as file:
        class_of = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    return top1(predict, turned(JUDGED), [class_of[path.name] for path in JUDGED.paths])


def input_sizes() -> tuple[int, ...]:
    return 208, 192, 176, 160, 144, 128


def turned(photos: Iterable[tuple[torch.Tensor, ...]]) -> Iterable[tuple[torch.Tensor, ...]]:
    """Turn photos by 180 degrees, as all kernels of these weights are. They come from a network
    whose strided convolutions pad at the bottom and right; torch's pad at the top and left.
    """
    return ((photo.flip(-2, -1),) for (photo,) in photos)
