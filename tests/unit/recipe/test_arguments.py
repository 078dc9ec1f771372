"""How inputs are flattened, named and put back, whatever a recipe nests them in."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from functools import partial

import pytest

from edgekit.errors import RecipeError
from edgekit.recipe.arguments import parameters_of, read_arguments

Pair = namedtuple("Pair", "left right")


def forward(image, state=None, *rest, scale=1.0): ...


@pytest.mark.parametrize(
    ("example", "names"),
    [
        ((1,), ["image"]),
        ([1, 2, 3], ["image", "state", "input_2"]),
        ((1, (2, [3, 4])), ["image", "state_0", "state_1_0", "state_1_1"]),
        (({"imu": 1, "gps": {"at": 2}},), ["image_imu", "image_gps_at"]),
        ({"image": 1, "scale": 2}, ["image", "scale"]),
        ({"state": [1, 2], "extra": {"a": 3}}, ["state_0", "state_1", "extra_a"]),
        ((1, Pair(2, 3)), ["image", "state_0", "state_1"]),
        ((OrderedDict(b=1, a=2),), ["image_b", "image_a"]),
        (UserDict(image=1, state=2), ["image", "state"]),
        (({"a/b": 1, 0: 2},), ["image_a_b", "image_0"]),
        (({"a_b": 1, "a": {"b": 2}},), ["image_a_b", "image_a_b_2"]),
    ],
)
def test_tensors_are_named_by_their_path(example, names) -> None:
    arguments = read_arguments(example, parameters_of(forward), "here")
    assert list(arguments.names) == names
    assert arguments.flatten(example, "here") == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    "example",
    [(1, 2), (1, {"a": 2, "b": (3,)}), {"image": 1, "state": Pair(2, 3)}, (1, Pair(2, [3]), 4)],
)
def test_the_way_back(example) -> None:
    arguments = read_arguments(example, parameters_of(forward), "here")
    args, keywords = arguments.rebuild(arguments.flatten(example, "here"))
    assert (keywords or tuple(args)) == example
    assert not (args and keywords)


def test_another_order_or_container_of_the_same_tensors() -> None:
    arguments = read_arguments((1, {"a": 2, "b": [3, 4]}), parameters_of(forward), "here")
    assert arguments.flatten([1, {"b": (3, 4), "a": 2}], "here") == [1, 2, 3, 4]
    assert arguments.flatten({"state": {"b": [3, 4], "a": 2}, "image": 1}, "here") == [1, 2, 3, 4]


def test_a_call_by_position_or_by_name() -> None:
    by_name = read_arguments({"state": 2, "image": 1}, parameters_of(forward), "here")
    assert by_name.flatten_call([1, 2], {}, "predict") == [2, 1]
    assert by_name.flatten_call([1], {"state": 2}, "predict") == [2, 1]
    by_place = read_arguments((1, 2), parameters_of(forward), "here")
    assert by_place.flatten_call([], {"state": 2, "image": 1}, "predict") == [1, 2]


@pytest.mark.parametrize(
    ("args", "keywords", "said"),
    [
        ([1], {}, "predict has image, but example_inputs() has image, state"),
        ([1, {"a": 2, "c": 3}], {}, "predict: state has a, c, but example_inputs() has a, b"),
        ([1, [2, 3]], {}, "state has 2 elements, but example_inputs() has a, b"),
        ([1, 2], {}, "state has int, but"),
        ([1, {"a": 1, "b": [3]}], {"image": 1}, "image is given twice"),
        ([1, {"a": 1, "b": [3, 4, 5]}], {}, "state_b has 3 elements"),
        ([1, {"a": 1, "b": [3]}], {"other": 1}, "has image, state, other, but"),
    ],
)
def test_what_is_nested_otherwise_is_refused(args, keywords, said) -> None:
    example = (1, {"a": 2, "b": [3]})
    arguments = read_arguments(example, parameters_of(forward), "here")
    with pytest.raises(RecipeError) as caught:
        arguments.flatten_call(args, keywords, "predict")
    assert said in caught.value.message


def test_what_is_no_set_of_inputs_is_refused() -> None:
    for value in (3, "x", {1: 2}):
        with pytest.raises(RecipeError):
            read_arguments(value, (), "here")


def test_names_of_what_forward_takes() -> None:
    assert parameters_of(forward) == ("image", "state")
    assert parameters_of(partial(forward, scale=2)) == ("image", "state")
    assert parameters_of(partial(forward, state=2)) == ("image",)
    assert parameters_of(len) == ("obj",)
    assert parameters_of(dict) == ()
