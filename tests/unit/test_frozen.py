"""Data between stages: unchangeable, and changed only by what validates again."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from edgekit.documents.environment import DeviceState
from edgekit.frozen import Extensible, Frozen
from edgekit.plan import Plan, Training


def test_a_change_is_validated_and_leaves_the_first_as_it_was() -> None:
    plan = Plan(precision="int8")
    assert plan.replaced(equalize=0.5).equalize == 0.5
    assert plan.equalize is None
    with pytest.raises(ValidationError, match="precision"):
        plan.replaced(precision="int9")


def test_a_misspelt_field_is_named() -> None:
    with pytest.raises(TypeError, match="Plan has no equalise"):
        Plan(precision="int8").replaced(equalise=0.5)


def test_rules_across_fields_hold_after_a_change() -> None:
    training = Training(objective="labels", steps=10, learning_rate=0.1)
    with pytest.raises(ValidationError, match="stop 11"):
        training.replaced(stop=11)


def test_nothing_can_be_set() -> None:
    with pytest.raises(ValidationError):
        Plan(precision="int8").precision = "fp32"  # type: ignore[misc]


def test_later_versions_may_write_more_into_documents_only() -> None:
    more = {"load_1min": 0.5, "humidity_percent": 40}
    assert DeviceState.model_validate(more).load_1min == 0.5
    with pytest.raises(ValidationError, match="precise"):
        Plan.model_validate({"precision": "int8", "precise": True})
    assert issubclass(Extensible, Frozen)


def test_a_schema_goes_by_its_own_key() -> None:
    document = json.loads(Plan(precision="int8").model_dump_json())
    assert document["schema"] == "edgekit.plan/1"
    assert Plan.model_validate(document) == Plan(precision="int8")
