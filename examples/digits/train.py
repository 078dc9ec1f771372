"""Trains the weights of the digits example: python examples/digits/train.py (about ten seconds)."""

from __future__ import annotations

from pathlib import Path

import torch
from recipe import DigitsNet, held_out, train_part

EPOCHS = 60
BATCH = 64


def main() -> None:
    torch.manual_seed(0)
    model = DigitsNet()
    images, labels = train_part()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            loss = torch.nn.functional.cross_entropy(
                model(jitter(images[batch])), labels[batch], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: held-out accuracy {accuracy(model):.2f} %")
    torch.save(model.state_dict(), Path(__file__).with_name("digits.pt"))


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Shift each image by up to half a pixel, turn it by up to 9 degrees, scale it by 8 %."""
    count = len(images)
    angle = torch.empty(count).uniform_(-0.15, 0.15)
    scale = torch.empty(count).uniform_(0.92, 1.08)
    shift = torch.empty(count, 2).uniform_(-0.125, 0.125)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), images.shape, align_corners=False)
    moved = torch.nn.functional.grid_sample(images + 1, grid, align_corners=False)
    return moved - 1


def accuracy(model: torch.nn.Module) -> float:
    images, labels = held_out()
    with torch.no_grad():
        hits = model.eval()(images).argmax(1) == labels
    return 100.0 * float(hits.float().mean())


if __name__ == "__main__":
    main()
