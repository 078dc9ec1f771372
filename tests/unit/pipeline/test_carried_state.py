"""What a model remembers, and what in it is random: decided by running copies of it."""

from __future__ import annotations

import copy
import functools
import random
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils import _pytree as pytree

from edgekit.errors import RecipeError
from edgekit.pipeline.model.subject import read_subject
from edgekit.pipeline.normal_form.flat_call import owner_of
from edgekit.pipeline.normal_form.normalize import NormalForm, normal_form
from edgekit.pipeline.state.find import find_state
from edgekit.pipeline.state.sequence import Carried, Following, along
from edgekit.pipeline.state.trial import try_twice
from edgekit.progress import Silent
from edgekit.recipe.arguments import read_arguments
from edgekit.recipe.recipe import open_recipe

PATH = Path("recipe.py")
X = (torch.linspace(-1, 1, 16).reshape(1, 8, 2),)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.build()
        self.eval()

    def build(self) -> None:
        pass


class Streaming(Model):
    def build(self) -> None:
        self.register_buffer("past", torch.full((1, 8, 4), 0.5))
        self.conv = nn.Conv1d(8, 3, 5)

    def forward(self, frame):
        x = torch.cat([self.past, frame], 2)
        self.past.copy_(x[:, :, -4:])
        return self.conv(x)


class RunningMean(Model):
    def build(self) -> None:
        self.register_buffer("mean", torch.zeros(1, 8, 1))

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean(2, keepdim=True))
        return x - self.mean


class Recurrent(Model):
    """Two states, reassigned, in a layer."""

    def build(self) -> None:
        self.cell = nn.Module()
        self.cell.register_buffer("h", torch.full((1, 6), 0.3))
        self.cell.register_buffer("c", torch.zeros(1, 6))
        self.lstm = nn.LSTMCell(16, 6)

    def forward(self, x):
        self.cell.h, self.cell.c = self.lstm(x.flatten(1), (self.cell.h, self.cell.c))
        return self.cell.h


class HiddenTuple(Model):
    """Plain attributes, as many write them."""

    def build(self) -> None:
        self.hidden = (torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))
        self.lstm = nn.LSTM(16, 6, batch_first=True)

    def forward(self, x):
        y, self.hidden = self.lstm(x.flatten(1)[:, None], self.hidden)
        return y


class RingBuffer(Model):
    """The last 16 steps; what is written now is read 15 calls later."""

    def build(self) -> None:
        self.register_buffer("ring", torch.zeros(1, 8, 16))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        self.ring.index_copy_(2, self.place, x.mean(2, keepdim=True))
        self.place.copy_((self.place + 1) % 16)
        return self.ring.index_select(2, self.place)


class Attention(Model):
    """Keys and values of up to 20 steps, the later ones masked."""

    def build(self) -> None:
        self.register_buffer("keys", torch.zeros(1, 20, 16))
        self.register_buffer("values", torch.zeros(1, 20, 16))
        self.register_buffer("step", torch.zeros(1, dtype=torch.long))
        self.project = nn.Linear(16, 48)

    def forward(self, x):
        query, key, value = self.project(x.flatten(1)).chunk(3, 1)
        self.keys.index_copy_(1, self.step, key[:, None])
        self.values.index_copy_(1, self.step, value[:, None])
        scores = (self.keys @ query[:, :, None])[:, :, 0]
        scores = scores.masked_fill(torch.arange(20) > self.step, -1e9)
        self.step += 1
        return (scores.softmax(1)[:, None] @ self.values)[:, 0]


class WrittenByData(Model):
    def build(self) -> None:
        self.past = nn.Parameter(torch.zeros(1, 8, 2), requires_grad=False)

    def forward(self, x):
        y = x + self.past
        self.past.data.copy_(0.5 * y)
        return y


class Bound(Model):
    """A constant bound as the recipe is advised to: in model()."""

    def build(self) -> None:
        self.register_buffer("past", torch.zeros(1, 8, 2))
        self.forward = functools.partial(self.forward, decay=0.5)

    def forward(self, x, decay):
        self.past.copy_(self.past * decay + x)
        return 2 * self.past


class Containers(Model):
    def build(self) -> None:
        self.caches = {"a": torch.zeros(1, 8, 2), "b": [torch.zeros(1, 8, 2)]}
        self.frames = deque([torch.zeros(1, 8, 2)] * 2, maxlen=2)

    def forward(self, x):
        y = x + self.caches["a"] - self.caches["b"][0] + self.frames[0]
        self.caches["a"], self.caches["b"][0] = x, 0.5 * y
        self.frames.append(x)
        return y


class Shared(Model):
    """One tensor under two names."""

    def build(self) -> None:
        past = torch.zeros(1, 8, 2)
        self.one, self.other = nn.Module(), nn.Module()
        self.one.register_buffer("past", past)
        self.other.register_buffer("past", past)

    def forward(self, x):
        y = x + self.other.past
        self.one.past.copy_(x)
        return y


class LastInput(Model):
    """The state is called as an input is, and is the input itself."""

    def build(self) -> None:
        self.x = torch.zeros(1, 8, 2)

    def forward(self, x):
        y = x - self.x
        self.x = x
        return y


class KeyFrame(Model):
    """Computed anew at every eighth call."""

    def build(self) -> None:
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))
        self.register_buffer("key", torch.zeros(1, 8, 2))

    def forward(self, x):
        self.calls.copy_((self.calls + 1) % 8)
        self.key.copy_(torch.where(self.calls == 0, 3 * x, self.key))
        return x + self.key


class Debounced(Model):
    """One after five loud inputs running, however far the example is from that."""

    def build(self) -> None:
        self.register_buffer("loud", torch.zeros(1))

    def forward(self, x):
        self.loud.copy_((self.loud + 1) * (x.mean() > 0.05))
        return (self.loud >= 5).float()


class LateFrame(Model):
    """Another output only after a thousand calls."""

    def build(self) -> None:
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return torch.where(self.calls == 1000, 2 * x, x)


WITH_STATE = {
    Streaming: ["past"],
    RunningMean: ["mean"],
    Recurrent: ["cell_h", "cell_c"],
    HiddenTuple: ["hidden_0", "hidden_1"],
    RingBuffer: ["ring", "place"],
    Attention: ["keys", "values", "step"],
    WrittenByData: ["past"],
    Bound: ["past"],
    Containers: ["caches_a", "caches_b_0", "frames_0", "frames_1"],
    Shared: ["one_past"],
    LastInput: ["x_state"],
    KeyFrame: ["calls", "key"],
    Debounced: ["loud"],
    LateFrame: ["calls"],
}


def remember(model, others=(), example=X):
    trial = try_twice(PATH, model, example)
    return find_state(PATH, NormalForm(model, example, trial.result, ()), ("x",), others, trial)


def steps(count: int):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 8, 2, generator=generator),) for _ in range(count)]


@pytest.mark.parametrize("kind", WITH_STATE)
@pytest.mark.parametrize("others", [[], steps(3)], ids=["example", "calibration"])
def test_state_goes_in_and_out(kind, others) -> None:
    model = kind()
    before = copy.deepcopy(model)
    found = remember(model, others)
    assert [state.name for state in found.states] == WITH_STATE[kind]
    carried = Carried(lambda inputs: flat(found.model(*inputs)), [s.initial for s in found.states])
    with torch.no_grad():
        for _ in range(2):
            untouched = copy.deepcopy(before)
            for step in steps(20):
                wanted = flat(untouched(*[tensor.clone() for tensor in step]))
                assert all(map(torch.equal, carried(step), wanted))
            carried.reset()


def flat(result):
    return [tensor.clone() for tensor in pytree.tree_leaves(result)]


def test_a_forward_that_belongs_to_no_module_is_named() -> None:
    with pytest.raises(TypeError, match="forward is <function"):
        owner_of(lambda x: x)


RECIPE = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 2))

    def forward(self, x):
        self.h = self.h * 0.5 + x
        return {"h_next": self.h * 2, "y": x}

model = Model

def example_inputs():
    return (torch.ones(1, 2),)
"""


def test_outputs_of_states_have_names_of_their_own(tmp_path) -> None:
    (tmp_path / "recipe.py").write_text(RECIPE)
    with open_recipe(tmp_path / "recipe.py", 0) as recipe:
        subject = read_subject(recipe, False, Silent())
    assert subject.structure.names == ("h_next", "y", "h_next_state")


def test_state_that_stays_zero_on_the_example_is_found() -> None:
    model = Streaming()
    model.past.zero_()
    found = remember(model, [], (torch.zeros(1, 8, 2),))
    assert [state.name for state in found.states] == ["past"]


def test_copies_of_the_made_model_are_apart() -> None:
    found = remember(Streaming())
    other = copy.deepcopy(found.model)
    first = flat(found.model(*X, found.states[0].initial))
    flat(other(*X, torch.zeros(1, 8, 4)))
    assert all(map(torch.equal, first, flat(found.model(*X, found.states[0].initial))))


class Counter(Model):
    def build(self) -> None:
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.batches += 1
        self.calls += 1
        self.seen.append(x.mean())
        return 2 * x


class Shown(Model):
    def build(self) -> None:
        self.attention = None

    def forward(self, x):
        self.attention = x.softmax(1)
        return 2 * self.attention


class Anchors(Model):
    def build(self) -> None:
        self.anchors = None
        self.register_buffer("strides", torch.zeros(2))
        self.ready = False

    def forward(self, x):
        if not self.ready:
            self.strides.copy_(torch.arange(2))
            self.ready = True
        if self.anchors is None:
            self.anchors = torch.arange(x.shape[2]).float()
        return x + self.anchors + self.strides


class Scratch(Model):
    def build(self) -> None:
        self.register_buffer("work", torch.zeros(1, 8, 2))

    def forward(self, x):
        self.work.copy_(x)
        return 2 * self.work


class ScratchInParts(Model):
    def build(self) -> None:
        self.register_buffer("work", torch.zeros(1, 8, 2))

    def forward(self, x):
        self.work[:, :4] = x[:, 4:]
        self.work[:, 4:].zero_()
        return 2 * self.work


class StartedAnew(Model):
    """Every call begins from nothing."""

    def build(self) -> None:
        self.h = torch.zeros(1, 8, 2)

    def forward(self, x):
        self.h = torch.zeros_like(self.h) + x
        return 2 * self.h


class Asking(Model):
    """Python numbers that are asked for, without effect on outputs."""

    def build(self) -> None:
        self.calls, self.seconds, self.times = 0, 0.0, {"eval": 0, "scale": 2}
        self.log = np.zeros(3)

    def forward(self, x):
        self.calls = min(self.calls + 1, 1000)
        self.seconds += 0.1
        self.log = np.roll(self.log + self.seconds, 1)
        self.times["eval"] += 1
        if self.calls % 100 == 0:
            print(f"call {self.calls}")
        return self.times["scale"] * x


class NormInTraining(Model):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        self.norm.train()
        return self.norm(x)


class NoiseWithoutEffect(Model):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training) + 0 * torch.randn_like(x)


class SelfAttention(Model):
    """Attention counts as random by its kind."""

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


NO_STATE = [Counter, Shown, Anchors, Scratch, ScratchInParts, StartedAnew, Asking, NormInTraining]


@pytest.mark.parametrize("kind", [*NO_STATE, NoiseWithoutEffect, SelfAttention])
def test_what_outputs_do_not_depend_on_is_no_state(kind) -> None:
    found = remember(kind())
    assert not found.states
    for step in steps(3):
        with torch.no_grad():
            assert all(map(torch.equal, flat(found.model(*step)), flat(kind()(*step))))


def test_a_model_that_writes_nothing_is_run_twice() -> None:
    runs = []

    class Counted(Model):
        def forward(self, x):
            runs.append(x)
            return 2 * x

    remember(Counted(), steps(3))
    assert len(runs) == 2


class NoneAtFirst(Model):
    def build(self) -> None:
        self.h, self.cell = None, nn.GRUCell(16, 6)

    def forward(self, x):
        self.h = x.new_zeros(1, 6) if self.h is None else self.h
        self.h = self.cell(x.flatten(1), self.h)
        return self.h


class Growing(Model):
    def build(self) -> None:
        self.register_buffer("cache", torch.zeros(1, 8, 0))

    def forward(self, x):
        self.cache = torch.cat([self.cache, x], 2)
        return self.cache.mean(2)


class Position(Model):
    def build(self) -> None:
        self.register_buffer("ring", torch.zeros(1, 8, 4))
        self.place = 0

    def forward(self, x):
        self.ring[:, :, self.place] = x.mean(2)
        self.place = (self.place + 1) % 4
        return self.ring.sum(2)


class Threshold(Model):
    """Nothing changes in the calls that are tried."""

    def build(self) -> None:
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x if self.calls < 100 else 2 * x


class Counting(Model):
    """What comes at a later call is decided by a Python number."""

    def build(self) -> None:
        self.place, self.slow = 0, nn.Linear(2, 2)
        self.register_buffer("key", torch.zeros(1, 8, 2))


class EveryFifth(Counting):
    def forward(self, x):
        self.place += 1
        if self.place % 5 == 0:
            self.key.copy_(self.slow(x))
        return x + self.key


class EveryThousandth(Counting):
    """Its effect comes a call later."""

    def forward(self, x):
        y = x + self.key
        self.place += 1
        if self.place % 1000 == 999:
            self.key.copy_(x)
        return y


class Both(Counting):
    """The second number is asked only where the first agrees."""

    def forward(self, x):
        self.place += 1
        return self.slow(x) if self.place > 10_000 and self.place % 2 else x


class Clock(Counting):
    def build(self) -> None:
        super().build()
        self.place = 0.0

    def forward(self, x):
        self.place += 0.1
        return self.slow(x) if self.place > 50 else x


class OfNumpy(Clock):
    def build(self) -> None:
        super().build()
        self.place = np.float32(0)

    def forward(self, x):
        self.place += np.float32(0.1)
        return self.slow(x) if self.place > 50 else x


class InArray(Counting):
    def build(self) -> None:
        super().build()
        self.place = np.zeros(2)

    def forward(self, x):
        self.place = self.place + 0.1
        return self.slow(x) if self.place[0] > 50 else x


class Phase(Counting):
    def forward(self, x):
        self.place = (self.place + 1) % 4
        return self.slow(x) if self.place == 0 else x


class Toggled(Counting):
    def build(self) -> None:
        super().build()
        self.place = False

    def forward(self, x):
        self.place = not self.place
        return self.slow(x) if self.place else x


class InList(Counting):
    def build(self) -> None:
        super().build()
        self.place = [0, {"calls": 0}]

    def forward(self, x):
        self.place[1]["calls"] += 1
        return x + 0 * self.place[1]["calls"]


class Record:
    def __init__(self) -> None:
        self.keys = None
        self.calls = 0


class CountingObject(Counting):
    def build(self) -> None:
        super().build()
        self.place = Record()

    def forward(self, x):
        self.place.calls += 1
        return [x, 2 * x][self.place.calls > 500]


class Listed(Model):
    def build(self) -> None:
        self.frames: list[torch.Tensor] = []

    def forward(self, x):
        self.frames.append(x)
        return torch.stack(self.frames).mean(0)


class InObject(Model):
    def build(self) -> None:
        self.cache = Record()

    def forward(self, x):
        keys = self.cache.keys
        self.cache.keys = x if keys is None else torch.cat([keys, x], 2)
        return self.cache.keys.mean(2)


class FirstFrame(Model):
    def build(self) -> None:
        self.reference = None

    def forward(self, x):
        self.reference = x if self.reference is None else self.reference
        return x - self.reference


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (NoneAtFirst, "h"),
        (Growing, "cache"),
        (Position, "place"),
        (Threshold, "calls"),
        (EveryFifth, "place"),
        (EveryThousandth, "place"),
        (Both, "place"),
        (Clock, "place"),
        (OfNumpy, "place"),
        (InArray, "place"),
        (Phase, "place"),
        (Toggled, "place"),
        (InList, "place"),
        (CountingObject, "place"),
        (Listed, "frames"),
        (InObject, "cache"),
        (FirstFrame, "reference"),
    ],
)
def test_what_cannot_be_an_input_is_refused_by_its_name(kind, name) -> None:
    with pytest.raises(RecipeError, match=rf"\b{name}\b"):
        remember(kind())


class Dropout(Model):
    def forward(self, x):
        return F.dropout(x, 0.2)  # drawn


class DropPath(Model):
    """Changes an output once in a thousand calls."""

    def forward(self, x):
        return x * x.new_empty(1, 1, 1).bernoulli_(0.999)  # drawn


class Noise(Model):
    def forward(self, x):
        return x + torch.rand_like(x)  # drawn


class Sampling(Model):
    def forward(self, x):
        return torch.multinomial(torch.ones(1000), 10)  # drawn


class Rrelu(Model):
    def forward(self, x):
        return F.rrelu(x, training=True)  # drawn


class NumpyNoise(Model):
    def forward(self, x):
        return x + float(np.random.randn())  # drawn


class PythonNoise(Model):
    def forward(self, x):
        return x + random.gauss(0, 1)  # drawn


class NoiseInState(Model):
    def build(self) -> None:
        self.register_buffer("h", torch.zeros(1, 8, 2))

    def forward(self, x):
        y = x + self.h
        self.h.copy_(torch.randn(1, 8, 2))  # drawn
        return y


@pytest.mark.parametrize(
    "kind",
    [Dropout, DropPath, Noise, Sampling, Rrelu, NumpyNoise, PythonNoise, NoiseInState],
)
def test_random_outputs_are_refused_with_the_line(kind) -> None:
    torch.manual_seed(0)
    with pytest.raises(RecipeError, match=r"same input.*# drawn"):
        remember(kind())


def test_random_numbers_go_on_as_if_nothing_had_run() -> None:
    class Unused(Model):
        def forward(self, x):
            torch.randn(3)
            np.random.randn()
            random.random()
            return 2 * x

    def draw():
        return float(torch.rand(())), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    model = Unused()
    seed()
    wanted = draw()
    seed()
    remember(model)
    assert draw() == wanted


def test_errors_of_states_add_up_along_a_sequence() -> None:
    def run(inputs):
        x, state = inputs
        return [x + state, state + 1]

    data = along(run, [(torch.tensor([float(i)]),) for i in range(4)], [torch.zeros(1)])
    assert [float(states) for _, states in data] == [0, 1, 2, 3]
    off = Following(lambda i: [i[0] + i[1], i[1] + 1.5], data, [torch.zeros(1)])
    assert [float(off(step)[0]) for step in data] == [0, 2.5, 5, 7.5]
    assert float(off(data[2])[0]) == 5


class Nested(Model):
    """Its inputs are nested, it computes in place, the state lies in a layer."""

    def build(self) -> None:
        self.layer = nn.Module()
        self.layer.past = torch.full((1, 8, 4), 0.5)
        self.conv = nn.Conv1d(8, 3, 5)

    def forward(self, frame, extra):
        frame.mul_(2)
        x = torch.cat([self.layer.past, frame], 2)
        self.layer.past = x[:, :, -4:]
        return {"y": self.conv(x) * extra["gain"][0]}


class Lazy(Nested):
    def build(self) -> None:
        super().build()
        self.conv = nn.LazyConv1d(3, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "hooked"), [(Nested, False), (Nested, True), (Lazy, False)])
def test_a_model_in_its_normal_form_keeps_its_state(dtype, kind, hooked) -> None:
    example = {"frame": X[0].to(dtype), "extra": {"gain": (torch.ones(1, dtype=dtype),)}}
    arguments = read_arguments(example, ("frame", "extra"), "here")
    flat_example = tuple(arguments.flatten(example, "here"))
    model = kind().to(dtype)
    model.layer.past = model.layer.past.to(dtype)
    if hooked:
        model.register_forward_hook(lambda module, inputs, outputs: outputs)
    form = normal_form(model, arguments, flat_example)
    trial = try_twice(PATH, form.model, form.example)
    found = find_state(PATH, form, arguments.names, [], trial)
    assert [state.name for state in found.states] == ["layer_past"]
    assert (found.states[0].initial == 0.5).all()
    run = Carried(lambda inputs: flat(found.model(*inputs)), [found.states[0].initial])
    net = copy.deepcopy(model).float()
    net.layer.past = net.layer.past.float()
    net.conv = found.model.get_submodule("model.conv" if hooked else "conv")
    for (frame,) in steps(4):
        with torch.no_grad():
            wanted = net(frame=frame.clone(), extra={"gain": (torch.ones(1),)})["y"]
            assert torch.allclose(run((frame, torch.ones(1)))[0], wanted, atol=1e-6)
