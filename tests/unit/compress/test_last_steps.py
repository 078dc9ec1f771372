"""A device may be two int8 steps off, where float operators come last too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchao.quantization.pt2e  # noqa: F401 - it registers the operators that are called here
from torch import nn

from edgekit.compress.last_steps import moved_by_flips, moved_by_steps
from edgekit.fidelity.agreement import device_passes, group_steps, last_steps
from edgekit.measure.golden import _step as golden_step
from edgekit.program import MovedBySteps, Quantization, TensorSpec

STEP = 0.063
TORCH = torch.ops.quantized_decomposed


def stored(x, step: float):
    parameters = (step, 0, -128, 127, torch.int8)
    return TORCH.dequantize_per_tensor(TORCH.quantize_per_tensor(x, *parameters), *parameters)


class Detector(nn.Module):
    """Boxes of 0 to 640 and scores: a sigmoid of int8 logits, nearly all of them background."""

    def __init__(self, ends_in_int8: bool = False) -> None:
        super().__init__()
        self.ends_in_int8 = ends_in_int8

    def forward(self, boxes, logits):
        boxes = stored(boxes, 0.05) * 100
        found = torch.cat([boxes, torch.sigmoid(stored(logits, STEP))], 1)
        return stored(found, 2.5) if self.ends_in_int8 else found


class Lines(nn.Module):
    """A softmax, in which a step of all logits cancels out."""

    def forward(self, logits):
        return torch.softmax(stored(logits, STEP), 1)


def example(seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 2, 2100, generator=random) / 2 - 7
    return torch.rand(1, 4, 2100, generator=random) * 6.4, logits


def moved_of(model: nn.Module, inputs):
    return moved_by_steps(torch.export.export(model.eval(), inputs), inputs)


def passes(model, inputs, others) -> bool:
    golden, actual = (model(*values).numpy() for values in (inputs, others))
    (moved,) = moved_of(model, inputs)
    steps = last_steps(golden, golden.shape, 1, moved)
    return device_passes([actual], [golden], [steps])


def test_a_device_may_be_two_steps_off_in_the_last_int8_tensor() -> None:
    boxes, logits = example()
    places = torch.randint(-2, 3, logits.shape, generator=torch.Generator().manual_seed(1))
    places[0, 0, logits[0, 0].argmax()] = 2
    rounded = stored(logits, STEP)
    assert passes(Detector(), (boxes, rounded), (boxes, rounded + STEP * places))
    assert not passes(Detector(), (boxes, rounded), (boxes, rounded + 5 * STEP))
    golden, actual = (Detector()(boxes, one).numpy() for one in (rounded, rounded + STEP * places))
    known = [group_steps(golden, golden.shape)]
    assert not device_passes([actual], [golden], known)  # by the scores' range alone


@pytest.mark.parametrize("wrong", ["zero", "swapped", "half"])
def test_a_wrong_kernel_in_small_scores_beside_large_boxes_fails(wrong) -> None:
    inputs = example()
    golden = Detector()(*inputs).numpy()
    actual = golden.copy()
    scores = golden[:, 4:]
    actual[:, 4:] = {"zero": 0 * scores, "swapped": scores[:, ::-1], "half": scores / 2}[wrong]
    (moved,) = moved_of(Detector(), inputs)
    assert not device_passes([actual], [golden], [last_steps(golden, golden.shape, 1, moved)])


def test_steps_that_cancel_out_move_at_random() -> None:
    (_, logits), model = example(), Lines()
    (moved,) = moved_of(model, (logits,))
    assert moved.whole > 0.01
    noise = STEP * torch.randint(-1, 2, logits.shape, generator=torch.Generator().manual_seed(3))
    assert passes(model, (stored(logits, STEP),), (stored(logits, STEP) + noise,))


def test_an_output_that_ends_in_int8_or_has_none_is_not_moved() -> None:
    assert moved_of(Detector(ends_in_int8=True), example()) == [None]
    assert moved_of(nn.Sigmoid(), (torch.ones(1, 3),)) == [None]


class Deep(nn.Module):
    """Float operators between layers in int8, which enlarge what is rounded to another step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = stored(nn.functional.hardswish(stored(2 * layer(x), STEP)), STEP)
        return stored(x.sum(1, keepdim=True), STEP)


def test_flips_inside_move_an_output_in_int8() -> None:
    with torch.no_grad():
        inputs = (torch.randn(1, 64),)
        program = torch.export.export(Deep(), inputs)
    (moved,) = moved_by_flips(program, inputs)
    assert moved == moved_by_flips(program, inputs)[0]
    assert STEP / 2 < moved.whole < 20 * STEP
    golden = program.module()(*inputs).numpy()
    spec = TensorSpec(
        name="y", dtype="float32", shape=(1, 1), moved=moved,
        quantization=Quantization(scale=STEP, zero_point=0),
    )  # fmt: skip
    step = golden_step(spec, golden, 1)
    assert step == max(STEP, moved.whole)
    assert device_passes([golden + 2 * step], [golden], [step])
    assert not device_passes([golden + 2.1 * step], [golden], [step])


def test_an_output_of_stored_integers_has_steps_of_one() -> None:
    """As a vendor's file in uint8 gives them."""
    spec = TensorSpec(
        name="y", dtype="uint8", shape=(1, 3),
        quantization=Quantization(scale=1 / 256, zero_point=0, dtype="uint8"),
    )  # fmt: skip
    golden = np.array([[3, 250, 0]], np.uint8)
    step = golden_step(spec, golden, 1)
    assert device_passes([golden + np.uint8([[1, 2, 0]])], [golden], [step])
    assert not device_passes([golden + np.uint8([[3, 0, 0]])], [golden], [step])


def test_a_thinned_output_has_the_steps_of_its_groups() -> None:
    moved = MovedBySteps(whole=5.0, groups={1: (5.0, 0.1)})
    golden = np.zeros((1, 2, 300))
    assert set(last_steps(golden.ravel()[::2], (1, 2, 300), 2, moved)) == {5.0, 0.1}
    assert last_steps(golden, golden.shape, 1, moved).reshape(golden.shape)[0, 1, 7] == 0.1


def test_a_program_without_them_keeps_its_bytes() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    assert "moved" not in spec.model_dump(mode="json")
    told = spec.replaced(moved=MovedBySteps(whole=1.0, groups={0: (1.0,)}))
    assert TensorSpec.model_validate_json(told.model_dump_json()) == told
