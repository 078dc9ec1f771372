"""Every model in one form: flat inputs that stay as they are, plain weights, float32."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils import _pytree as pytree

from edgekit.errors import RecipeError
from edgekit.pipeline.normal_form.normalize import normal_form
from edgekit.recipe.arguments import parameters_of, read_arguments
from edgekit.recipe.tensors import as_float32
from edgekit.runtimes.export import export

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")
X = torch.linspace(-1, 1, 8).reshape(1, 8)


class Observed(torch.fx.Interpreter):
    """Runs a graph with a copy after every operator, as an observer or a rounding is."""

    def run_node(self, n):
        result = super().run_node(n)
        return result.clone() if torch.is_tensor(result) else result


def read(model, example):
    """The normal form; what it exports gives what the model gives, and changes nothing."""
    model.eval()
    arguments = read_arguments(example, parameters_of(model.forward), "here")
    flat = tuple(arguments.flatten(example, "here"))
    before = [tensor.clone() for tensor in flat]
    form = normal_form(model, arguments, flat)
    exported = export(form.model, form.example)
    signature = exported.graph_signature
    assert not signature.user_inputs_to_mutate
    observed = Observed(exported.module(check_guards=False)).run
    for run in (form.model, exported.module(), copy.deepcopy(form.model), observed):
        with torch.no_grad():
            outputs = pytree.tree_leaves(run(*form.example))
        for got, wanted in zip(outputs, pytree.tree_leaves(form.outputs), strict=True):
            torch.testing.assert_close(got, wanted)
    same = zip(form.example, as_float32(before), strict=True)
    assert all(torch.equal(tensor, like) for tensor, like in same)
    return form


def module(forward, **parts):
    """A module with this forward, a linear layer ``a`` and other parts."""
    made = type("Net", (nn.Module,), {"forward": forward})()
    made.a = nn.Linear(8, 4)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def test_a_plain_model_stays_the_object_that_it_was() -> None:
    net = nn.Sequential(nn.Linear(8, 4))
    assert read(net, (X,)).model is net


@pytest.mark.parametrize(
    ("forward", "example"),
    [
        (lambda self, *, ids, mask: self.a(ids * mask), {"ids": X, "mask": X + 2}),
        (lambda self, x, state=None: self.a(x + state[0]), {"x": X, "state": (X, X)}),
        (lambda self, batch: {"out": self.a(batch["p"] + batch["q"][0])}, ({"p": X, "q": [X]},)),
        (lambda self, x, states: (self.a(x), [s + 1 for s in states]), (X, [X, X * 2])),
        (lambda self, **batch: self.a(batch["p"] * batch["q"]), {"p": X, "q": X}),
        (lambda self, *xs: self.a(sum(xs)), (X, X, X)),
    ],
)
def test_nested_inputs(forward, example) -> None:
    form = read(module(forward), example)
    assert [name for name, _ in form.model.named_parameters()] == ["a.weight", "a.bias"]


def clamped(self, x):
    view = x.view(2, 4)[1]
    view.clamp_(min=0.25)
    return self.a(x)


def in_a_dict(self, batch):
    batch["x"] /= 2
    batch["x"] = batch["x"] + 1
    return self.a(batch["x"])


def in_a_list(self, xs):
    xs[0].mul_(2)
    xs.append(xs[0] + xs[1])
    return self.a(xs.pop()) + self.a(xs[0])


def by_a_mask(self, x):
    x[x < 0] = 0
    return self.a(x)


def by_slices(self, x):
    x[:, 0] *= 2
    x[..., 1:3] = -1
    return self.a(nn.functional.relu_(x)), x


def under_a_view(self, x):
    view = x[:, :4] * 1, x[:, 4:]
    x.add_(1)
    return self.a(x), view[1] + view[0]


@torch.inference_mode()
def in_inference_mode(self, x):
    return self.a(x.sub_(0.5).div_(0.25))


@pytest.mark.parametrize(
    ("forward", "example"),
    [
        (clamped, (X,)), (in_a_dict, ({"x": X},)), (in_a_list, ([X, X + 1],)), (by_a_mask, (X,)),
        (by_slices, (X,)), (in_inference_mode, (X,)), (under_a_view, (X,)),
    ],
)  # fmt: skip
def test_inputs_changed_in_place(forward, example) -> None:
    net = module(forward)
    with torch.no_grad():
        wanted = pytree.tree_leaves(net(*copy.deepcopy(example)))
    got = pytree.tree_leaves(read(net, example).outputs)
    assert all(map(torch.equal, got, wanted))


def test_an_exported_program_that_changes_its_inputs() -> None:
    from edgekit.exported.program import positional

    example = (X.bfloat16(), [X.bfloat16()])
    net = module(lambda self, x, ys: self.a(x.mul_(2) + ys[0][:, :8].add_(1).to(torch.bfloat16)))
    exported = torch.export.export(net.bfloat16().eval(), example)
    program = positional(exported)
    vars(program).pop("train"), vars(program).pop("eval")  # as Recipe.model() does
    form = read(program, (example[0], example[1][0]))
    assert [name for name, _ in form.model.named_parameters()] == ["a.weight", "a.bias"]
    assert form.outputs.dtype == torch.float32


def test_the_recipes_own_model_is_called_as_ever() -> None:
    net = module(in_a_dict)
    read(net, ({"x": X},))
    assert net({"x": X.clone()}).shape == (1, 4)


def test_hooks_see_the_inputs_nested() -> None:
    net = module(lambda self, batch: self.a(batch["x"]))
    net.register_forward_pre_hook(lambda _, args: ({"x": args[0]["x"] * 2},))
    form = read(net, ({"x": X},))
    assert torch.equal(form.outputs, net({"x": X}))


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


class Cut(nn.Module):
    """Weights of another shape than the parameters behind them."""

    def forward(self, x):
        return x[:, :8] * 2

    def right_inverse(self, x):
        return torch.cat([x, x], 1) / 2


class Joined(nn.Module):
    def forward(self, a, b):
        return a + b

    def right_inverse(self, x):
        return x / 4, x * 3 / 4


def parametrized(part, kind, name="weight", unsafe=False):
    parametrize.register_parametrization(part, name, kind, unsafe=unsafe)
    return part


def frozen(part):
    return part.requires_grad_(False)


def old(function, part, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(part, *args, **kwargs)


WEIGHTS = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "frozen weight_norm": lambda: frozen(parametrizations.weight_norm(nn.Linear(8, 8))),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "symmetric": lambda: parametrized(nn.Linear(8, 8), Symmetric()),
    "two of them": lambda: parametrized(parametrized(nn.Linear(8, 8), Symmetric()), Symmetric()),
    "the bias too": lambda: parametrized(
        parametrizations.weight_norm(nn.Linear(8, 8)), nn.Softplus(), "bias"
    ),
    "another shape": lambda: parametrized(nn.Linear(8, 8), Cut(), unsafe=True),
    "of two": lambda: parametrized(nn.Linear(8, 8), Joined()),
    "old weight_norm": lambda: old(torch.nn.utils.weight_norm, nn.Linear(8, 8)),
    "old weight_norm, whole": lambda: old(torch.nn.utils.weight_norm, nn.Linear(8, 8), dim=None),
    "old spectral_norm": lambda: old(torch.nn.utils.spectral_norm, nn.Linear(8, 8)),
    "pruned": lambda: prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5),
    "pruned twice": lambda: prune.l1_unstructured(
        prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5), "weight", 2
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_computed_weights_become_plain_ones(kind) -> None:
    net = nn.Sequential(WEIGHTS[kind](), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        wanted = net(X)
    form = read(net, (X,))
    torch.testing.assert_close(form.outputs, wanted)
    names = {name for name, _ in form.model.named_parameters()}
    assert names == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not list(form.model.buffers())
    assert type(form.model[0]) is nn.Linear
    torch.testing.assert_close(net(X), wanted)  # the recipe's own stays as it was
    out = form.model.train()(X)
    if out.requires_grad and "frozen" not in kind:
        out.sum().backward()
        assert form.model[0].weight.grad is not None


def test_a_root_and_a_buffer_with_computed_values() -> None:
    net = parametrizations.weight_norm(nn.Linear(8, 4))
    net.register_buffer("scale", torch.ones(3))
    parametrize.register_parametrization(net, "scale", nn.Softplus())
    form = read(net, (X,))
    assert {name for name, _ in form.model.named_buffers()} == {"scale"}


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, torch.nn.utils.weight_norm])
def test_recurrent_weights(norm) -> None:
    net = nn.GRU(8, 8, batch_first=True)
    old(norm, net, "weight_hh_l0")
    assert "weight_hh_l0" in dict(read(net, (X[None],)).model.named_parameters())


def test_a_lazy_module_that_is_never_called_is_left_out() -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.LazyLinear(5), nn.Sequential(nn.LazyConv1d(3, 2))

        def forward(self, x):
            return self.used(x)

    assert list(read(Net(), (X,)).model.state_dict()) == ["used.weight", "used.bias"]


def test_lazy_modules_are_initialised() -> None:
    net = nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.LazyConv1d(3, 2), nn.LazyBatchNorm1d(), nn.Flatten(),
        nn.LazyLinear(5),
    )  # fmt: skip
    form = read(net, (X,))
    assert form.outputs.shape == (1, 5)
    assert torch.equal(form.model[2].running_mean, torch.zeros(3))
    root = nn.LazyLinear(3)
    assert type(read(root, (X,)).model) is nn.Linear


class Casting(nn.Module):
    """Casts and makes tensors of another type itself."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.constant = dtype, torch.full((8,), 2.0, dtype=dtype)
        self.a = nn.Linear(8, 4, dtype=dtype)

    def forward(self, x):
        x = x.to(self.dtype) * self.constant + torch.ones(8, dtype=self.dtype)
        x = (x.double() if self.dtype == torch.float64 else x.bfloat16()).type(self.dtype)
        return self.a(x), x.softmax(1, dtype=self.dtype).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float64, torch.float32])
def test_other_types_are_computed_in_float32(dtype, given) -> None:
    for net in (nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to(dtype), Casting(dtype)):
        form = read(net, (X.to(given),))
        assert str(dtype).removeprefix("torch.") in form.notes[0]
        tensors = (*form.model.parameters(), *pytree.tree_leaves(form.outputs), *form.example)
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        exported = export(form.model, form.example)
        values = [node.meta.get("val") for node in exported.graph.nodes]
        assert {v.dtype for v in values if torch.is_tensor(v)} == {torch.float32}


def test_a_default_type_of_float64() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        net = module(lambda self, x: self.a(x * torch.arange(8.0) + torch.zeros(8)))
        form = read(net, (torch.rand(1, 8),))
    finally:
        torch.set_default_dtype(torch.float32)
    assert form.outputs.dtype == torch.float32


def test_float64_inputs_of_a_float32_model() -> None:
    form = read(nn.Sequential(nn.Linear(8, 4)), (X.double(),))
    assert "float64" in form.notes[0]
    assert form.outputs.dtype == torch.float32


def test_half_precision_stays() -> None:
    net = nn.Sequential(nn.Linear(8, 4)).half()
    form = read(net, (X.half(),))
    assert form.model is net
    assert form.notes == ()


def test_a_model_that_needs_float64_is_refused() -> None:
    net = module(lambda _, x: x[:, 1:] - x[:, :-1])
    with pytest.raises(RecipeError, match="needs float64"):
        read(net.double(), (X.double() + 1e9,))


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        net = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.BatchNorm1d(8))
    form = read(net, (X,))
    assert not any(t.is_inference() for t in (*form.model.parameters(), *form.model.buffers()))


def test_what_a_model_keeps_is_as_the_recipe_made_it() -> None:
    def forward(self, x):
        self.past.add_(x)
        self.seen = self.seen + 1
        return self.a(self.past)

    net = module(forward)
    net.register_buffer("past", torch.zeros(1, 8))
    net.register_buffer("seen", torch.zeros(()))
    arguments = read_arguments((X,), ("x",), "here")
    form = normal_form(net, arguments, (X,))
    assert torch.equal(form.model.past, torch.zeros(1, 8))
    assert form.model.seen == 0


def nearest(self, t):
    return (self.times - t).abs().argmin(-1, keepdim=True)


def stamped(self, t):
    return torch.cat([t, torch.tanh(t - self.times[:1])], 1)


def masked(self, t):
    """Of what is masked nothing is compared, but all else is."""
    return torch.cat([torch.full_like(t, -torch.inf), t - self.times[:1]], 1)


@pytest.mark.parametrize("forward", [nearest, stamped, masked])
def test_what_float32_loses_is_seen_beside_what_it_keeps(forward) -> None:
    net = module(forward).double()
    net.register_buffer("times", 1.7e9 + torch.arange(8, dtype=torch.float64))
    with pytest.raises(RecipeError, match="needs float64"):
        read(net, (torch.tensor([[1.7e9 + 5.7]], dtype=torch.float64),))


@pytest.mark.parametrize("outputs", [2, 10, 300])
def test_ordinary_models_of_float64_do_not_need_it(outputs) -> None:
    """Outputs that are near zero by chance, that are zero, masked, of unlike sizes, or integers."""
    for seed in range(5):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, outputs))

        class Several(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, x):
                y = self.net(x)
                masked = torch.cat([y, torch.full_like(y, -torch.inf)], 1)
                return y, masked, y.softmax(1), y.argmax(1), torch.cat([y - y, 1e4 * y], 1), y > 0

        form = read(Several(net).double(), (X.double(),))
        assert "float64" in form.notes[0]
