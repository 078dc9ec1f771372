"""The cause of an error among its wrappers: on chains built as torch and ExecuTorch build them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.errors import chain_of
from edgekit.runtimes.cause import find_cause, summary


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.PReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(self.body(x)).values


def graph() -> torch.fx.Graph:
    return torch.export.export(Net().eval(), (torch.rand(1, 4),)).graph


def caught(raising, *arguments) -> Exception:
    try:
        raising(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def in_a_pass(raising, *arguments) -> None:
    """As executorch's pass manager wraps what a pass raises."""
    try:
        raising(*arguments)
    except Exception as error:
        raise Exception(
            "An error occurred when running the 'ChannelsLastTaggedReshapePass' pass after the "
            "following passes: []"
        ) from error


def visit(graph: torch.fx.Graph) -> None:
    for node in graph.nodes:
        if "prelu" in str(node.target) and node.op == "call_function":
            raise AssertionError("Expected weight to be NCHW")


def test_the_deepest_error_counts_with_the_node_it_worked_on() -> None:
    cause = find_cause(caught(in_a_pass, in_a_pass, visit, graph()))
    assert type(cause.error) is AssertionError
    assert cause.summary == "AssertionError: Expected weight to be NCHW"
    assert cause.operator == "aten.prelu"
    assert cause.layer == "body.1"
    assert "test_cause.py" in str(cause.line)
    assert "self.body(x)" in str(cause.line)
    assert "aten.prelu of layer body.1 (" in cause.where


@pytest.mark.parametrize(
    "text",
    [
        'Operator torch._ops.aten.sort.default is not in Core ATen opset (https://x.y/z)."',
        "Missing out variants: {'aten::sort'}",
        "While executing %sort : [num_users=1] = call_function[target=torch.ops.aten.sort.default]"
        "(args = (%prelu,), kwargs = {})",
        "loading its method failed with OperatorMissing (0x14): aten::sort.values",
    ],
)
def test_an_operator_that_only_the_text_names_is_found_in_the_graph(text) -> None:
    cause = find_cause(RuntimeError(text), graph())
    assert cause.operator == "aten.sort"
    assert cause.layer == ""
    assert "torch.sort(self.body(x))" in str(cause.line)


def test_an_operator_that_no_graph_has_is_named_alone() -> None:
    cause = find_cause(RuntimeError("Missing out variants: {'mine::double'}"), graph())
    assert (cause.operator, cause.layer, cause.line) == ("mine.double", None, None)


def test_the_line_of_a_recorded_trace_is_the_last_that_is_not_torchs() -> None:
    text = (
        "shape mismatch\n\nWhile executing %add : [num_users=1] = call_function[target=torch.ops."
        "aten.add.Tensor](args = (%x, 1), kwargs = {})\nOriginal traceback:\n"
        'File "/home/me/net.py", line 7, in forward\n    return self.head(x)\n'
        'File "/usr/lib/python3/site-packages/torch/nn/modules/module.py", line 3, in _call\n  y\n'
    )
    cause = find_cause(RuntimeError(text))
    assert cause.summary == "RuntimeError: shape mismatch"
    assert cause.operator == "aten.add"
    assert cause.line == "/home/me/net.py:7: return self.head(x)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("dtypes differ:\n  aten.mul: float32 and complex64\n  more"),
         "ValueError: dtypes differ: aten.mul: float32 and complex64"),
        (KeyError(), "KeyError"),
        (RuntimeError("\n\n  late \n"), "RuntimeError: late"),
        (RuntimeError("why. Please file an issue on github."), "RuntimeError: why."),
        (ValueError("x" * 5000), "ValueError: " + "x" * 300),
    ],
)  # fmt: skip
def test_what_an_error_says_first(error, expected) -> None:
    assert summary(error) == expected


def test_an_error_without_text_is_told_by_its_line() -> None:
    def check() -> None:
        assert 1 > 2

    assert "assert 1 > 2" in summary(caught(check))


def test_a_lookup_that_failed_on_the_way_is_no_cause() -> None:
    def look_up() -> None:
        try:
            {}["missing"]
        except KeyError:
            raise ValueError("the model has no such layer")  # noqa: B904

    def wrap() -> None:
        try:
            look_up()
        except ValueError:
            raise RuntimeError("An error occurred when running the 'P' pass")  # noqa: B904

    assert [type(error) for error in chain_of(caught(wrap))] == [RuntimeError, ValueError]


def test_a_chain_that_bites_its_tail_ends() -> None:
    error, other = ValueError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    assert list(chain_of(error)) == [error, other]
