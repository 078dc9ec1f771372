"""Kinds of values that options, plans and targets share. They need no pydantic; it reads them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, Predicate

RuntimeName = Literal["executorch", "litert", "tflite"]
RuntimeChoice = Literal["auto", RuntimeName]
PrecisionChoice = Literal["auto", "fp32", "fp16", "int8", "mixed"]
# Those that tflite-runtime 2.14 has wheels for.
TFLITE_PYTHONS = ("3.9", "3.10", "3.11")
# How long a build may look for something better, and how often it measures.
Effort = Literal["quick", "normal", "thorough"]


class Words(str):
    """What a kind of value allows, in words for an error."""

    __slots__ = ()


MOST_THREADS = 256
Positive = Annotated[float, Gt(0), Lt(math.inf), Words("a number above 0")]
NotNegative = Annotated[float, Ge(0), Lt(math.inf), Words("a number of 0 or more")]
Share = Annotated[float, Gt(0), Lt(1), Words("a share between 0 and 1, such as 0.5 for a half")]


def version_numbers(text: str) -> tuple[int, ...]:
    """2.36 as (2, 36), which can be compared."""
    return tuple(int(part) for part in text.split("."))


def image_size(value: int | tuple[int, int] | str) -> tuple[int, int] | None:
    """Height and width: of 176, (160, 224), "176" or "160x224". None if it is none of these."""
    if isinstance(value, int):
        value = (value, value)
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
            return None
        value = (int(parts[0]), int(parts[-1]))
    return value if min(value) > 0 else None


def _is_image_size(value: int | tuple[int, int] | str) -> bool:
    return image_size(value) is not None


ImageSize = Annotated[
    int | tuple[int, int] | str,
    Predicate(_is_image_size),
    Words("a number of pixels, such as 176, or height x width, such as 160x224"),
]


def worker_count(value: int | str) -> int | None:
    """The number of processes, of 2 or "2"; None for an address. Raises ValueError for others."""
    text = str(value).strip()
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", text):
        return None
    raise ValueError(f"{text} is neither a number nor an address")


def _are_workers(value: int | str) -> bool:
    try:
        worker_count(value)
    except ValueError:
        return False
    return True


WorkersChoice = Annotated[
    int | str,
    Predicate(_are_workers),
    Words("a number of processes, or a Dask scheduler's address, such as tcp://10.0.0.2:8786"),
]


def thread_count(value: int | str) -> int | None:
    """The number of threads: of 4 or "4". None for "auto"."""
    return None if value == "auto" else int(value)


def _is_thread_count(value: int | str) -> bool:
    if isinstance(value, str) and not value.isdecimal():
        return value == "auto"
    return 1 <= int(value) <= MOST_THREADS


Threads = Annotated[
    int | str,
    Predicate(_is_thread_count),
    Words("a whole number of 1 to 256, or auto"),
]
Count = Annotated[int, Ge(1), Words("a whole number of 1 or more")]
Channels = Annotated[int, Ge(1), Words("a whole number of channels")]
Pixels = Annotated[int, Ge(1), Words("a whole number of pixels")]
# NumPy and torch take no larger one.
Seed = Annotated[int, Ge(0), Lt(2**32), Words("a whole number from 0 to 4294967295")]
