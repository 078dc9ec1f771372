"""The bare script that bench/spine.py holds `edgekit build` against: the same export, quantize
and lower calls, and nothing else.

    python scripts/bench/bare.py int8|fp32 OUTPUT.pte
"""

from __future__ import annotations

import sys
from pathlib import Path

import mobilenet_v2 as recipe
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def main() -> None:
    precision, output = sys.argv[1], Path(sys.argv[2])
    model, inputs = recipe.model(), recipe.example_inputs()
    with torch.no_grad():
        exported = torch.export.export(model, inputs)
        if precision == "int8":
            quantizer = XNNPACKQuantizer().set_global(
                get_symmetric_quantization_config(is_per_channel=True)
            )
            prepared = prepare_pt2e(exported.module(), quantizer)
            for batch in recipe.calibration():
                prepared(*batch)
            exported = torch.export.export(convert_pt2e(prepared), inputs)
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    output.write_bytes(program.to_executorch().buffer)


if __name__ == "__main__":
    main()
