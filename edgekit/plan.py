"""The plan: what is done to the model. Part of the manifest: it decides the bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PLAN_SCHEMA: Literal["edgekit.plan/1"] = "edgekit.plan/1"

Precision = Literal["fp32", "int8", "as_is"]
PrecisionChoice = Literal["auto", "fp32", "int8"]
# How long a build may look for something better, and how often it measures.
Effort = Literal["quick", "normal", "thorough"]


class Plan(BaseModel):
    """``per_channel``: int8 weights have one scale per output channel, not one per tensor.

    ``fp32`` leaves the model in the floating-point types that the recipe gave it. ``as_is``: a
    finished file, of which nothing is known but what it holds.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    schema_: Literal["edgekit.plan/1"] = Field(default=PLAN_SCHEMA, alias="schema")
    precision: Precision
    per_channel: bool = True
    seed: int = 0
