"""Static int8 quantization with PT2E and the XNNPACK quantizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.compress.copying import copy_of
from edgekit.compress.graph import WEIGHTED, float_nodes, operator_name, tensor_at, within
from edgekit.compress.masks import clamp_masks
from edgekit.compress.quantization.simulate import ANNOTATION
from edgekit.errors import ExportError, RuntimeFailure
from edgekit.plan import Plan
from edgekit.progress import Progress, Stage
from edgekit.recipe.recipe import default_torch_settings
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.executorch.limits import STEP_LIMITS
from edgekit.runtimes.executorch.passes.fold import fold_constants
from edgekit.runtimes.executorch.passes.products import products_as_linear
from edgekit.runtimes.executorch.passes.rewrite import rewrite
from edgekit.runtimes.executorch.refuse import refuse, runtime_failures
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

if TYPE_CHECKING:
    import torch

# The number of 4-bit weights that share a scale. XNNPACK's kernels need a multiple of it.
INT4_GROUP = 32
FLOAT = "build it with --precision fp32"
LAYERS = WEIGHTED | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


def prepare(
    model: torch.nn.Module, example: Inputs, plan: Plan, calibration: Sequence[Inputs] = ()
) -> torch.fx.GraphModule:
    """Export a model and insert an observer wherever int8 will round.

    Constants and batch norms are folded, and attention masks clamped. Follows the PT2E export
    quantization flow of the ExecuTorch documentation. ``plan.float_layers`` get no observer.
    Raises ExportError, RuntimeFailure.
    """
    with quiet(), runtime_failures("the quantizer failed on this model", FLOAT):
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

        if plan.linear == "dynamic_int4":
            model = _with_int4_weights(model, plan)
        exported = fold_constants(products_as_linear(export(model, example)))
        refuse(exported)
        graph = rewrite(exported).module()
        with default_torch_settings():
            _unshare(graph)
            unroundable = clamp_masks(graph, calibration)
            _annotate_float(graph, plan, unroundable)
            prepared = prepare_pt2e(graph, _quantizer(graph, plan))
            _keep_integers(prepared)
            _observe_as_clamped(prepared)
        assert isinstance(prepared, torch.fx.GraphModule)
        return prepared


def _quantizer(graph: torch.fx.GraphModule, plan: Plan) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=plan.per_channel)
    quantizer = XNNPACKQuantizer().set_global(config)
    if not any(_is_training(node) for node in graph.graph.nodes):
        # the others match batch norms in training mode only, and trace twelve small models each
        static = [one for one in XNNPACKQuantizer.SUPPORTED_PATTERNS if not one.is_qat]
        quantizer.SUPPORTED_PATTERNS = static
    if plan.linear == "dynamic":
        dynamic = get_symmetric_quantization_config(plan.per_channel, is_dynamic=True)
        quantizer.set_operator_type(torch.ops.aten.linear.default, dynamic)
    if plan.linear != "static" and not any(_is_linear(node) for node in graph.graph.nodes):
        raise RuntimeFailure(
            f"the plan quantizes linear layers as {plan.linear}, but this model has none",
            'remove "linear" from the plan',
        )
    return quantizer


def _unshare(graph: torch.fx.GraphModule) -> None:
    """Give every further use of a layer its own weight and bias.

    The quantizer rounds a weight only for its first use. The runtime stores a bias once, in the
    steps of the first use.
    """
    import torch

    for given in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        users = [user for user in given.users if _is_layer(user) and given in user.args[1:3]]
        for number, user in enumerate(users[1:], 1):
            name = f"{str(given.target).replace('.', '_')}_use_{number}"
            copied = tensor_at(graph, given).detach().clone()
            graph.register_parameter(name, torch.nn.Parameter(copied, requires_grad=False))
            with graph.graph.inserting_before(user):
                own = graph.graph.get_attr(name)
            own.meta = dict(given.meta)
            user.args = tuple(own if value is given else value for value in user.args)
    graph.recompile()


def _is_layer(node: torch.fx.Node) -> bool:
    return operator_name(node) in LAYERS


def _annotate_float(graph: torch.fx.GraphModule, plan: Plan, unroundable: set[str]) -> None:
    """Mark the operators that stay float as annotated, with nothing to round.

    The quantizer's own filter does not cover concatenations, nor operators that follow a rounded
    value (views, pooling).
    """
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    floats = unroundable | float_nodes(graph.graph, frozenset(plan.float_layers))
    for node in graph.graph.nodes:
        int4 = plan.linear == "dynamic_int4" and _is_int4(node)
        if node.name in floats or int4 or _has_scalar(node):
            node.meta[ANNOTATION] = QuantizationAnnotation(_annotated=True)


def _has_scalar(node: torch.fx.Node) -> bool:
    """Whether an operator computes or reads a 0-dim tensor other than a constant.

    The delegate's passes index the first dimension of every rounded value.
    """
    if node.op != "call_function":
        return False
    values = [value for value in (node, *node.all_input_nodes) if value.op != "get_attr"]
    return any(getattr(value.meta.get("val"), "shape", None) == () for value in values)


def _with_int4_weights(model: torch.nn.Module, plan: Plan) -> torch.nn.Module:
    """A copy with 4-bit weights in the linear layers whose inputs are whole groups.

    Raises RuntimeFailure: there is no such layer.
    """
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    def fits(module: torch.nn.Module, name: str) -> bool:
        linear = type(module) is torch.nn.Linear and module.in_features % INT4_GROUP == 0
        return linear and not any(within(name, layer) for layer in plan.float_layers)

    if not any(fits(module, name) for name, module in model.named_modules()):
        raise RuntimeFailure(
            "no linear layer of this model can have 4-bit weights: they need a torch.nn.Linear "
            f"whose inputs are a multiple of {INT4_GROUP}",
            'use "linear": "dynamic" in the plan',
        )
    copied = copy_of(model)
    int4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - torch's type stubs lack it
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=int4, weight_granularity=PerGroup(INT4_GROUP)
    )
    quantize_(copied, config, filter_fn=fits)
    return copied


def _is_training(node: torch.fx.Node) -> bool:
    """Whether a batch norm uses the statistics of its batch."""
    training: Any = node.args[5] if operator_name(node) == "batch_norm" else False
    return bool(training)


def _is_linear(node: torch.fx.Node) -> bool:
    return operator_name(node) == "linear"


def _is_int4(node: torch.fx.Node) -> bool:
    """Whether a linear layer has a 4-bit weight; or the operator that dequantizes such a weight."""
    weight: Any = node.args[1] if _is_linear(node) else node
    return operator_name(weight) == "dequantize_affine"


def calibrate(
    prepared: torch.fx.GraphModule, calibration: Sequence[Inputs], progress: Progress
) -> None:
    """Run the data through the quantizer's observers. Raises RuntimeFailure.

    Inputs run one by one, so that the result does not depend on the recipe's batches.
    """
    with (
        quiet(),
        runtime_failures("the quantizer failed on this model", FLOAT),
        default_torch_settings(),
        progress.stage("calibrating") as stage,
    ):
        _calibrate(prepared, calibration, stage)


def convert(prepared: torch.fx.GraphModule, example: Inputs) -> torch.export.ExportedProgram:
    """The program that computes in torch what the artifact will. Raises RuntimeFailure."""
    with (
        quiet(),
        runtime_failures("the quantizer failed on this model", FLOAT),
        default_torch_settings(),
    ):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        try:
            return export(convert_pt2e(prepared), example)
        except ExportError as error:  # the quantizer's graph, not the user's model
            raise RuntimeError(error.message) from error


def _keep_integers(prepared: torch.fx.GraphModule) -> None:
    """Restore integer constants. The quantizer makes the 1 of ``index + 1`` a float tensor, so that
    the sum is no longer an index.
    """
    for node in prepared.graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if node.op != "call_function" or dtype is None or dtype.is_floating_point:
            continue
        for constant in node.all_input_nodes:
            if constant.op == "get_attr" and str(constant.target).startswith("_tensor_constant_"):
                tensor = prepared.get_buffer(str(constant.target))
                setattr(prepared, str(constant.target), tensor.to(dtype))


def _observe_as_clamped(prepared: torch.fx.GraphModule) -> None:
    """Observe values before a clamp as clamped.

    The kernels clamp before they store, so values that a ReLU6 cuts off need none of the 256 steps.
    Observed without the clamp, they take most steps, and the int8 MobileNetV2 is 14 dB further from
    the float model. An observer that unclamped values share is not changed.
    """
    observers = dict(prepared.named_modules(remove_duplicate=False))
    nodes = [node for node in prepared.graph.nodes if node.op == "call_module"]
    uses = Counter(id(observers[node.target]) for node in nodes if not _is_clamp(node.args[0]))
    for node in nodes:
        observer = observers[node.target]
        bounds = {_clamp_bounds(user) for user in node.users}
        if len(bounds) == 1 and None not in bounds and uses[id(observer)] == 1:
            low, high = bounds.pop() or (0.0, 0.0)
            observer.register_forward_pre_hook(
                lambda _, inputs, low=low, high=high: (inputs[0].clamp(low, high),)
            )


def _is_clamp(node: Any) -> bool:
    return _clamp_bounds(node) is not None


def _clamp_bounds(node: torch.fx.Node) -> tuple[float, float] | None:
    name = str(node.target).removeprefix("aten.").removesuffix(".default").removesuffix("_")
    if name == "relu6":
        return 0.0, 6.0
    if name != "hardtanh":
        return None
    given: list[Any] = [*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :]]
    return float(given[0]), float(given[1])


def _calibrate(prepared: torch.fx.GraphModule, calibration: Sequence[Inputs], stage: Stage) -> None:
    import torch

    with torch.no_grad(), ExitStack() as later:
        for index, inputs in enumerate(calibration):
            prepared(*inputs)
            if index == 0:
                later.enter_context(_bypassed(prepared, _observers_of_constants(prepared)))
            stage.advance(index + 1, len(calibration))


def _observers_of_constants(prepared: torch.fx.GraphModule) -> dict[str, torch.nn.Module]:
    """Name -> observer, of values that are the same for all inputs: one look at them is enough."""
    nodes = [node for node in prepared.graph.nodes if node.op == "call_module"]
    moving = {
        id(prepared.get_submodule(node.target)) for node in nodes if node.args[0].op != "get_attr"
    }
    found = {node.target: prepared.get_submodule(node.target) for node in nodes}
    return {name: observer for name, observer in found.items() if id(observer) not in moving}


@contextmanager
def _bypassed(
    prepared: torch.fx.GraphModule, observers: Mapping[str, torch.nn.Module]
) -> Iterator[None]:
    """Values pass these observers without being observed."""
    import torch

    for name in observers:
        prepared.set_submodule(name, torch.nn.Identity())
    try:
        yield
    finally:
        for name, observer in observers.items():
            prepared.set_submodule(name, observer)


class XnnpackPt2e:
    """The PT2E capability of ExecuTorch (runtimes/base.py)."""

    step_limits = STEP_LIMITS
    prepare = staticmethod(prepare)
    calibrate = staticmethod(calibrate)
    convert = staticmethod(convert)
