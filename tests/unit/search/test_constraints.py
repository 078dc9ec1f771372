"""Constraints: how they are read, and checked against a model and the options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.build_options import BuildOptions
from edgekit.compress.pruning.channel_groups import Group, Place
from edgekit.errors import SettingError
from edgekit.pipeline.constraints import check_constraints
from edgekit.pipeline.fit.losses import ConstraintFilter
from edgekit.search.constraints import Constraints, read_constraints


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)


SUBJECT: Any = SimpleNamespace(
    model=Net(),
    example=(torch.ones(1, 3, 32, 24),),
    recipe=SimpleNamespace(path=SimpleNamespace(name="recipe.py")),
)


def checked(constraints: dict[str, Any], **options: Any) -> Constraints:
    return check_constraints(
        BuildOptions(target="x86", constraints=constraints, **options), SUBJECT
    )


def test_patterns_become_the_outermost_names() -> None:
    found = checked({"keep_float": ["head"], "keep_channels": ["layer*", "layer1.0"]})
    assert found.keep_float == ("head",)
    assert found.keep_channels == ("layer1",)
    assert checked({"keep_blocks": ["layer1.?"]}).keep_blocks == ("layer1.0", "layer1.1")


@pytest.mark.parametrize("name", ["keep_float", "keep_channels", "keep_blocks"])
def test_an_unknown_name_is_an_error_with_the_nearest(name: str) -> None:
    with pytest.raises(SettingError, match="haed") as caught:
        checked({name: ["haed"]})
    assert caught.value.hint is not None and "head" in caught.value.hint
    with pytest.raises(SettingError, match="no_such"):
        checked({name: ["no_such.*"]})


@pytest.mark.parametrize(
    ("constraints", "options"),
    [
        ({"keep_float": ["head"]}, {"precision": "int8"}),
        ({"keep_float": ["*"]}, {}),
        ({"min_input_size": 24}, {"input_size": 16}),
        ({"min_input_size": 28}, {}),
    ],
    ids=["int8", "all float", "a smaller size", "larger than the model's"],
)
def test_contradictions_are_refused(constraints, options) -> None:
    with pytest.raises(SettingError, match=next(iter(constraints))):
        checked(constraints, **options)


def test_what_does_not_contradict_is_accepted() -> None:
    checked({"keep_float": ["*"]}, precision="fp32")
    checked({"keep_float": ["head"]}, precision="mixed")
    assert checked({"min_input_size": "32x16"}, input_size="32x20").allows_size((32, 16))


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"keep_flaot": ["a"]}, ("keep_flaot", "keep_float")),
        ({"keep_float": "head"}, ("keep_float", "head")),
        ({"min_channels": 0}, ("min_channels", "0")),
        ({"min_input_size": "large"}, ("min_input_size", "large")),
        ({"keep_float": [3]}, ("keep_float",)),
        ([], ("table",)),
    ],
)
def test_a_wrong_table_names_the_key(table, parts) -> None:
    with pytest.raises(SettingError) as caught:
        read_constraints(table, "edgekit.toml: ")
    assert all(part in caught.value.message for part in ("edgekit.toml", *parts))


def test_a_stronger_place_replaces_single_constraints() -> None:
    stronger = read_constraints({"keep_float": [], "min_channels": 32})
    weaker = read_constraints({"keep_float": ["head"], "keep_blocks": ["a"]})
    both = stronger.over(weaker)
    assert (both.keep_float, both.keep_blocks, both.min_channels) == ((), ("a",), 32)


def group(layer: str, count: int) -> Group:
    channels = tuple(range(count))
    return Group(layer, count, (Place(layer, True, channels, channels),))


def test_the_search_keeps_to_constraints_and_records_what_they_took() -> None:
    bound = ConstraintFilter(
        Constraints(
            keep_channels=("stem",), keep_blocks=("b.1",), min_channels=16, min_input_size=28
        )
    )
    losses = {8: 3.0, 16: 1.0, 32: 0.0}
    assert bound.allowed(group("stem.0", 32), losses) == {32: 0.0}
    assert bound.allowed(group("mid", 32), losses) == {16: 1.0, 32: 0.0}
    assert bound.allowed(group("thin", 8), {8: 0.0}) == {8: 0.0}
    assert [name for name in ("b", "b.0", "b.1", "b.1.c", "b.10") if bound.may_drop(name)] == [
        "b.0",
        "b.10",
    ]
    assert [size for size in ((24, 32), (28, 28), (32, 24)) if bound.may_resize(size)] == [(28, 28)]
    found = {one.constraint.split()[0]: one.held for one in bound.report}
    assert found == {
        "keep_channels": ("stem.0",),
        "min_channels": ("mid",),
        "keep_blocks": ("b", "b.1", "b.1.c"),
        "min_input_size": ("24x32", "32x24"),
    }
