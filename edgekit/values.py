"""Kinds of values that options, plans and targets share. They need no pydantic; it reads them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

RuntimeChoice = Literal["auto", "executorch", "litert", "tflite"]
PrecisionChoice = Literal["auto", "fp32", "int8", "mixed"]
# How long a build may look for something better, and how often it measures.
Effort = Literal["quick", "normal", "thorough"]


class Words(str):
    """What a kind of value allows, in words for an error."""

    __slots__ = ()


Positive = Annotated[float, Gt(0), Lt(math.inf), Words("a number above 0")]
NotNegative = Annotated[float, Ge(0), Lt(math.inf), Words("a number of 0 or more")]
Share = Annotated[float, Gt(0), Lt(1), Words("a share between 0 and 1, such as 0.5 for a half")]
# NumPy and torch take no larger one.
Seed = Annotated[int, Ge(0), Lt(2**32), Words("a whole number from 0 to 4294967295")]
