"""Every piece of advice, tried: an operator that falls outside the delegate against what edgekit
advises to write instead, both built fp32 and int8, timed in turns on this host; prints a table.

python scripts/bench/advice.py [OPERATOR ...]
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import side_by_side  # noqa: F401 - before torch, for its threads to wait asleep
import torch
from side_by_side import with_interval
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from edgekit.pipeline.model.predict import to_bytes
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import measure
from edgekit.runner.staging import staged
from edgekit.runtimes.executorch.lower import lower
from edgekit.runtimes.executorch.native import runner_files
from edgekit.runtimes.executorch.quantize import calibrate, convert, prepare
from edgekit.runtimes.export import export

ROUNDS, RUNS = 7, 40
CHANNELS, SIDE, LENGTH, WIDTH, HEADS, STEPS = 32, 28, 64, 128, 4, 8
IMAGE, TOKENS = (1, CHANNELS, SIDE, SIDE), (1, LENGTH, WIDTH)
SERIES, FEATURES = (1, STEPS, 40), 40

Form = Callable[[torch.Tensor], torch.Tensor]


class Pair(NamedTuple):
    """``equal``: both forms compute the same; else the other is what to use in its place."""

    operator: str
    slow: str
    better: str
    forms: tuple[Form, Form]
    shape: tuple[int, ...] = IMAGE
    equal: bool = True


class Between(nn.Module):
    """A layer, then the form: operators stand behind a layer in practice."""

    def __init__(self, form: Form, shape: tuple[int, ...]) -> None:
        super().__init__()
        wide = nn.Linear(shape[-1], shape[-1])
        self.before = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) if len(shape) == 4 else wide
        self.form = form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.form(self.before(x))


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = WIDTH // HEADS
        q, k, v = (
            part(x).view(LENGTH, HEADS, d).transpose(0, 1)
            for part in (self.query, self.key, self.value)
        )
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        elif self.kind == "matmul":
            y = (((q[None] * d**-0.5) @ k[None].transpose(2, 3)).softmax(-1) @ v[None])[0]
        else:
            y = torch.bmm(torch.bmm(q * d**-0.5, k.transpose(1, 2)).softmax(-1), v)
        return y.transpose(0, 1).reshape(1, LENGTH, WIDTH)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.view(1, LENGTH, 1, WIDTH)
        d = y - y.mean((2, 3), keepdim=True)
        y = d * torch.rsqrt((d * d).mean((2, 3), keepdim=True) + 1e-5)
        return y.view(1, LENGTH, WIDTH) * self.weight + self.bias


class Moments(nn.Module):
    """Instance norm, written out of means over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, CHANNELS, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, CHANNELS, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = x - x.mean((2, 3), keepdim=True)
        y = d * torch.rsqrt((d * d).mean((2, 3), keepdim=True) + 1e-5)
        return y * self.weight + self.bias


def mirrored(x: torch.Tensor) -> torch.Tensor:
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], 2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], 3)


def repeated(x: torch.Tensor) -> torch.Tensor:
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[..., :1], x, x[..., -1:]], 3)


class Cell(nn.Module):
    """A GRU or an LSTM, written out; the weights of torch's own."""

    def __init__(self, body: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        size = body.hidden_size
        self.gates = len(body.bias_ih_l0) // size
        self.of_input = nn.ModuleList([nn.Linear(FEATURES, size) for _ in range(self.gates)])
        self.of_state = nn.ModuleList([nn.Linear(size, size) for _ in range(self.gates)])
        self.register_buffer("zeros", torch.zeros(1, 1, size))
        with torch.no_grad():
            for gate in range(self.gates):
                part = slice(gate * size, gate * size + size)
                self.of_input[gate].weight.copy_(body.weight_ih_l0[part])
                self.of_input[gate].bias.copy_(body.bias_ih_l0[part])
                self.of_state[gate].weight.copy_(body.weight_hh_l0[part])
                self.of_state[gate].bias.copy_(body.bias_hh_l0[part])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [gate(x) for gate in self.of_input]
        state = memory = self.zeros
        for step in range(STEPS):
            now = [part[:, step : step + 1] for part in parts]
            of_state = [gate(state) for gate in self.of_state]
            if self.gates == 3:
                reset, update = (torch.sigmoid(now[i] + of_state[i]) for i in (0, 1))
                new = torch.tanh(now[2] + reset * of_state[2])
                state = new + update * (state - new)
            else:
                keep = [torch.sigmoid(now[i] + of_state[i]) for i in (0, 1, 3)]
                memory = keep[1] * memory + keep[0] * torch.tanh(now[2] + of_state[2])
                state = keep[2] * torch.tanh(memory)
        return state.reshape(1, -1)


def attention(kind: str) -> Attention:
    torch.manual_seed(0)  # the same weights for every kind
    return Attention(kind)


def pairs() -> list[Pair]:
    norm, gru, lstm = nn.LayerNorm(WIDTH), nn.GRU(FEATURES, 64), nn.LSTM(FEATURES, 64)
    gru.batch_first = lstm.batch_first = True
    half = nn.Conv2d(CHANNELS // 2, CHANNELS // 2, 3, padding=1)
    pool = (2, 3)
    return [
        Pair("mean", "x.mean((2, 3))", "x.mean((2, 3), keepdim=True).flatten(1)",
             (lambda x: x.mean(pool), lambda x: x.mean(pool, keepdim=True).flatten(1))),
        Pair("mean", "tokens.mean(1)",
             "tokens.transpose(1, 2)[..., None].mean((2, 3), keepdim=True).flatten(1)",
             (lambda x: x.mean(1),
              lambda x: x.transpose(1, 2)[..., None].mean(pool, keepdim=True).flatten(1)), TOKENS),
        Pair("split_with_sizes_copy", "a, b = x.chunk(2, 1)", "x[:, :n], x[:, n:]",
             (lambda x: torch.cat([x.chunk(2, 1)[0], half(x.chunk(2, 1)[1])], 1),
              lambda x: torch.cat([x[:, :CHANNELS // 2], half(x[:, CHANNELS // 2:])], 1))),
        Pair("native_layer_norm", "nn.LayerNorm", "written out by mean((2, 3), keepdim=True)",
             (norm, Norm()), TOKENS),
        Pair("logical_not", "scaled_dot_product_attention", "torch.bmm, softmax, torch.bmm",
             (attention("sdpa"), attention("bmm")), TOKENS),
        Pair("expand_copy", "matmul on four dimensions", "torch.bmm on three",
             (attention("matmul"), attention("bmm")), TOKENS),
        Pair("GRU", "nn.GRU", "the cell written out",
             (lambda x: gru(x)[0][:, -1], Cell(gru)), SERIES),
        Pair("LSTM", "nn.LSTM", "the cell written out",
             (lambda x: lstm(x)[0][:, -1], Cell(lstm)), SERIES),
        Pair("select_copy", "x[:, :, 0]", "x[:, :, 0:1].reshape(...)",
             (lambda x: x[:, :, 0], lambda x: x[:, :, 0:1].reshape(1, CHANNELS, SIDE))),
        Pair("squeeze_copy", "x.squeeze(2)", "x.reshape(...)",
             (lambda x: F.max_pool2d(x, (SIDE, 1)).squeeze(2),
              lambda x: F.max_pool2d(x, (SIDE, 1)).reshape(1, CHANNELS, SIDE))),
        Pair("unsqueeze_copy", "x.unsqueeze(2)", "x.reshape(...)",
             (lambda x: x.unsqueeze(2), lambda x: x.reshape(1, CHANNELS, 1, SIDE, SIDE))),
        Pair("upsample_nearest2d", "interpolate(x, mode='nearest')", "mode='bilinear'",
             (lambda x: F.interpolate(x, scale_factor=2),
              lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), equal=False),
        Pair("upsample_bicubic2d", "interpolate(x, mode='bicubic')", "mode='bilinear'",
             (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
              lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), equal=False),
        Pair("avg_pool2d", "avg_pool2d with padding", "count_include_pad=False",
             (lambda x: F.avg_pool2d(x, 3, 1, 1),
              lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)), equal=False),
        Pair("_adaptive_avg_pool2d", "adaptive_avg_pool2d(x, 4)", "avg_pool2d(x, 7)",
             (lambda x: F.adaptive_avg_pool2d(x, 4), lambda x: F.avg_pool2d(x, SIDE // 4))),
        Pair("amax", "x.amax((2, 3))", "max_pool2d(x, size).flatten(1)",
             (lambda x: x.amax(pool), lambda x: F.max_pool2d(x, SIDE).flatten(1))),
        Pair("_softmax", "x.softmax(1)", "x.permute(0, 2, 3, 1).softmax(-1)",
             (lambda x: x.softmax(1),
              lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2))),
        Pair("elu", "F.elu, F.selu", "F.leaky_relu",
             (F.elu, F.leaky_relu), equal=False),
        Pair("log1p", "F.softplus, F.mish", "F.silu", (F.softplus, F.silu), equal=False),
        Pair("_to_dim_order_copy", "F.hardsigmoid(x)", "F.relu6(x + 3) * (1 / 6)",
             (F.hardsigmoid, lambda x: F.relu6(x + 3) * (1 / 6))),
        Pair("max_pool2d_with_indices", "max_pool1d(x, 4)",
             "max_pool2d((1, 4)) of x as [1, channels, 1, n]",
             (lambda x: F.max_pool1d(x, 4),
              lambda x: F.max_pool2d(x.reshape(1, LENGTH, 1, WIDTH), (1, 4)).reshape(
                  1, LENGTH, WIDTH // 4)), TOKENS),
        Pair("_native_batch_norm_legit", "nn.InstanceNorm2d",
             "written out by mean((2, 3), keepdim=True)",
             (nn.InstanceNorm2d(CHANNELS, affine=True), Moments())),
        Pair("native_group_norm", "nn.GroupNorm", "nn.BatchNorm2d",
             (nn.GroupNorm(4, CHANNELS), nn.BatchNorm2d(CHANNELS)), equal=False),
        Pair("reflection", "pad(x, 1, mode='reflect')", "torch.cat of slices",
             (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), mirrored)),
        Pair("replication", "pad(x, 1, mode='replicate')", "torch.cat of slices",
             (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), repeated)),
        Pair("pow", "x ** 3", "x * x * x", (lambda x: x**3, lambda x: x * x * x)),
        Pair("repeat", "x.repeat(1, 2, 1, 1)", "torch.cat([x, x], 1)",
             (lambda x: x.repeat(1, 2, 1, 1), lambda x: torch.cat([x, x], 1))),
        Pair("roll", "x.roll(1, 2)", "torch.cat([x[:, :, -1:], x[:, :, :-1]], 2)",
             (lambda x: x.roll(1, 2), lambda x: torch.cat([x[:, :, -1:], x[:, :, :-1]], 2))),
        Pair("reciprocal", "1 / x", "torch.rsqrt(x) ** 2 where x > 0",
             (lambda x: 1 / (x * x + 1), lambda x: torch.rsqrt(x * x + 1) ** 2)),
    ]  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    print("| outside | written | instead | fp32 | int8 | calls outside |")
    print("|---|---|---|---|---|---|", flush=True)
    for pair in pairs():
        if len(sys.argv) < 2 or pair.operator in sys.argv[1:]:
            print(row(pair), flush=True)


def row(pair: Pair) -> str:
    x = torch.randn(pair.shape, generator=torch.Generator().manual_seed(0))
    models = [Between(form, pair.shape).eval() for form in pair.forms]
    models[1].before = models[0].before
    difference = (models[0](x) - models[1](x)).abs().max() if pair.equal else torch.zeros(())
    assert difference < 1e-4, (pair, difference)
    cells = [pair.operator, f"`{pair.slow}`", f"`{pair.better}`"]
    calls = "-"
    for precision in ("fp32", "int8"):
        try:
            artifacts = [built(model, x, precision) for model in models]
            median, low, high = compared(artifacts, x)
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
            calls = " to ".join(str(artifact.program.outside_operators) for artifact in artifacts)
        except Exception as error:  # said in the table
            cells.append(f"{type(error).__name__}")
            print(f"{pair.operator} {precision}: {error}", file=sys.stderr)
    return "| " + " | ".join([*cells, calls]) + " |"


def built(model: nn.Module, x: torch.Tensor, precision: str) -> Artifact:
    if precision == "fp32":
        return lower(export(model, (x,)))
    prepared = prepare(model, (x,), Plan(precision="int8"))
    calibrate(prepared, [(x,)], Silent())
    return lower(convert(prepared, (x,)))


def compared(artifacts: list[Artifact], x: torch.Tensor) -> tuple[float, float, float]:
    """Latency of the second over the first's, in rounds that alternate."""
    files = runner_files("x86_64", Silent())
    with ExitStack() as stack:
        places = [stack.enter_context(staged(artifact, files)) for artifact in artifacts]
        ratios = []
        for _ in range(ROUNDS):
            first, second = (
                statistics.median(
                    measure(at, [to_bytes(x)], runs=RUNS, warmup=5, threads=1).latencies_ms
                )
                for at in places
            )
            ratios.append(second / first)
    return with_interval(ratios)


if __name__ == "__main__":
    main()
