"""MobileNetV1 of width 0.25 on photos of ImageNet's 1000 classes. It loses much in plain int8.

Every tenth photo is for calibration, the others for evaluation. Weights and photos are in the
folder EDGEKIT_DATA (docs/examples.md).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

import torch
from mobilenet_v1 import MobileNetV1
from torch import nn

from edgekit.data import data_path, images
from edgekit.metrics import top1

WEIGHTS = data_path("mobilenet_v1_025/mobilenet_v1_025.pt")
PHOTOS = data_path("imagenet_samples/images")
LABELS = data_path("imagenet_samples/labels.csv")

CALIBRATING, JUDGED = images(
    PHOTOS, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
).split(every=10)


def model() -> nn.Module:
    net = MobileNetV1()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net


def example_inputs() -> tuple[torch.Tensor, ...]:
    return CALIBRATING[0]


def calibration() -> Iterable[tuple[torch.Tensor, ...]]:
    return CALIBRATING


def evaluate(predict) -> float:
    with LABELS.open() as file:
        class_of = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    return top1(predict, JUDGED, [class_of[path.name] for path in JUDGED.paths])
