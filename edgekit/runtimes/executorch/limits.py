"""The limits of XNNPACK's integer kernels for steps.

From XNNPACK's source (August 2026). operators/convolution-nhwc.c, deconvolution-nhwc.c and
fully-connected-nc.c refuse a requantization scale of 256 and more ("unsupported_parameter") when
the program is loaded. src/microparams-init.c has the other limits as assertions, which release
builds omit: beyond them the result is silently wrong.
"""

from __future__ import annotations

from edgekit.compress.quantization.limits import Range, StepLimits

WEIGHTED = Range(2.0**-32, 2.0**8)
ADD = Range(2.0**-10, 2.0**8)
MULTIPLY = Range(2.0**-16, 2.0**8)
LEAKY_RELU = Range(2.0**-8, 2.0**7)

STEP_LIMITS = StepLimits(
    products={
        **dict.fromkeys(("conv1d", "conv2d", "convolution", "linear"), WEIGHTED),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), WEIGHTED),
        "mul": MULTIPLY,
    },
    each={"add": ADD, "sub": ADD, "leaky_relu": LEAKY_RELU},
)
