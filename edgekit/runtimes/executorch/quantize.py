"""Static int8 quantization with PT2E and the XNNPACK quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.errors import RuntimeFailure
from edgekit.plan import Plan
from edgekit.progress import Progress, Stage
from edgekit.recipe import Inputs
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

if TYPE_CHECKING:
    import torch


def quantize(
    model: torch.nn.Module,
    example: Inputs,
    calibration: Sequence[Inputs],
    plan: Plan,
    progress: Progress,
) -> torch.export.ExportedProgram:
    """Quantize weights and activations to int8, activation ranges from ``calibration``.

    Follows the PT2E export quantization flow of the ExecuTorch documentation. Calibrated input
    by input, so that the result does not depend on how the recipe batches.
    """
    with quiet(), progress.stage("quantizing to int8") as stage:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=plan.per_channel)
        quantizer = XNNPACKQuantizer().set_global(config)
        exported = export(model, example)
        try:
            prepared = prepare_pt2e(exported.module(), quantizer)
            _calibrate(prepared, calibration, stage)
            return export(convert_pt2e(prepared), example)
        except Exception as error:
            raise RuntimeFailure(
                f"the quantizer failed on this model: {type(error).__name__}: {error}",
                "build it with --precision fp32",
            ) from error


def _calibrate(prepared: torch.nn.Module, calibration: Sequence[Inputs], stage: Stage) -> None:
    import torch

    with torch.no_grad():
        for index, inputs in enumerate(calibration):
            prepared(*inputs)
            stage.advance(index + 1, len(calibration))
