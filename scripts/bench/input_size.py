"""What a network learns from at a smaller input size, without labels: MobileNetV2 on photos.

    EDGEKIT_DATA=... python scripts/bench/input_size.py [SIZE]

Every second photo trains, the others judge, in torch. The teacher is the network at 224 pixels. The
table that it prints is in docs/benchmarks.md.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from edgekit.compress.training.distill import relative_noise
from edgekit.data import data_path, images
from edgekit.recipe.image_size import resized_image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "mobilenet_v2"))
from mobilenet_v2 import MobileNetV2

STEPS, BATCH, RATE, PIXELS = 120, 16, 1e-4, 224
BLOCKS = tuple(f"features.{index}" for index in range(19))
LAST = BLOCKS[-1]
HALF = (0.5, 0.5, 0.5)

Seen = dict[str, torch.Tensor]
Loss = Callable[[Seen, Seen], torch.Tensor]


def network() -> MobileNetV2:
    net = MobileNetV2()
    path = data_path("mobilenet_v2_100/mobilenet_v2_100.pt")
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def photos() -> tuple[torch.Tensor, torch.Tensor]:
    found = images(data_path("imagenet_samples/images"), PIXELS, mean=HALF, std=HALF)
    with data_path("imagenet_samples/labels.csv").open() as file:
        class_of = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    pixels = torch.cat([photo.flip(-2, -1) for (photo,) in found])
    return pixels, torch.tensor([class_of[path.name] for path in found.paths])


def seen(net: nn.Module, pixels: torch.Tensor) -> Seen:
    """The outputs of all blocks, and of the network as ``scores``."""
    outputs: Seen = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _net, _inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name in BLOCKS
    ]
    outputs["scores"] = net(pixels)
    for handle in handles:
        handle.remove()
    return outputs


def places(name: str) -> Loss:
    def loss(own: Seen, theirs: Seen) -> torch.Tensor:
        height, width = own[name].shape[2:]
        return relative_noise(own[name], resized_image(theirs[name], (height, width)))

    return loss


def means(own: Seen, theirs: Seen) -> torch.Tensor:
    return relative_noise(own[LAST].mean((2, 3)), theirs[LAST].mean((2, 3)))


def scores(own: Seen, theirs: Seen) -> torch.Tensor:
    target, actual = (nn.functional.log_softmax(one["scores"], 1) for one in (theirs, own))
    return (target.exp() * (target - actual)).sum(1).mean()


def total(*losses: Loss) -> Loss:
    return lambda own, theirs: torch.stack([loss(own, theirs) for loss in losses]).sum()


COMPARED: dict[str, Loss] = {
    "means of the last map": means,
    "the last map, place by place, and its means": total(places(LAST), means),
    "all blocks, place by place": total(*(places(name) for name in BLOCKS)),
    "scores": scores,
    "scores, and means of the last map": total(scores, means),
}


def trained(pixels: torch.Tensor, size: int, loss: Loss, mixed: bool) -> nn.Module:
    teacher, student = network(), network()
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE)
    draw = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        batch = pixels[torch.randperm(len(pixels), generator=draw)[:BATCH]]
        if mixed:
            share = torch.rand(BATCH, 1, 1, 1, generator=draw)
            batch = batch * share + batch.roll(1, 0) * (1 - share)
        with torch.no_grad():
            theirs = seen(teacher, batch)
        error = loss(seen(student, resized_image(batch, (size, size))), theirs)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return student


def top1(net: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, size: int) -> float:
    with torch.no_grad():
        found = [
            net(resized_image(part, (size, size))).argmax(1) for part in pixels.split(25)
        ]  # fmt: skip
    return 100 * float((torch.cat(found) == labels).float().mean())


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 176
    pixels, labels = photos()
    judged = pixels[1::2], labels[1::2]
    print("| compared | mixed | top-1 |\n|---|---|---|")
    for pixels_of_side in (PIXELS, size):
        untrained = top1(network(), *judged, pixels_of_side)
        print(f"| nothing trained, {pixels_of_side} pixels | | {untrained:.1f} |")
    for name, loss in COMPARED.items():
        for mixed in (False, True):
            found = top1(trained(pixels[::2], size, loss, mixed), *judged, size)
            print(f"| {name} | {'yes' if mixed else 'no'} | {found:.1f} |", flush=True)


if __name__ == "__main__":
    main()
