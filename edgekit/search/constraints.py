"""What no search and no flag may change in a model: the table [constraints] of edgekit.toml.

Names are those of the model's modules; ``*``, ``?`` and ``[...]`` stand for any characters. A name
includes everything inside the module. ``pipeline/constraints.py`` checks them against the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from edgekit.errors import SettingError, unknown
from edgekit.frozen import Frozen
from edgekit.values import Channels, ImageSize, image_size

Names = tuple[str, ...]


class Constraints(Frozen):
    """Constraints on the model of a build.

    keep_float      layers that stay float in every precision
    keep_channels   layers that keep all their output channels
    keep_blocks     residual blocks that are not removed
    min_channels    no group of channels becomes narrower
    min_input_size  images do not become smaller: pixels of a square, or "HxW"
    """

    keep_float: Names = ()
    keep_channels: Names = ()
    keep_blocks: Names = ()
    min_channels: Channels | None = None
    min_input_size: ImageSize | None = None

    def over(self, weaker: Constraints) -> Constraints:
        """These constraints, and those of ``weaker`` that are not set here."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return weaker.replaced(**own)

    def allows_width(self, width: int) -> bool:
        return self.min_channels is None or width >= self.min_channels

    def allows_size(self, size: tuple[int, int]) -> bool:
        least = self.least_size
        return least is None or all(now >= low for now, low in zip(size, least, strict=True))

    @property
    def least_size(self) -> tuple[int, int] | None:
        """Height and width in pixels."""
        return image_size(self.min_input_size) if self.min_input_size is not None else None


NO_CONSTRAINTS = Constraints()


def read_constraints(data: object, prefix: str = "") -> Constraints:
    """The constraints of a table. ``prefix``: of error messages, such as the file's name.

    Raises SettingError.
    """
    if isinstance(data, Constraints):
        return data
    if not isinstance(data, Mapping):
        raise SettingError(f"{prefix}constraints must be a table, not {data}")
    known = list(Constraints.model_fields)
    lines = [unknown("constraint", str(name), known) for name in data if name not in known]
    if not lines:
        try:
            return Constraints.model_validate(_as_tuples(data))
        except ValidationError as error:
            lines = list(dict.fromkeys(_wrong(str(one["loc"][0]), data) for one in error.errors()))
    raise SettingError("\n".join(prefix + line for line in lines), "docs/fit.md lists them")


def _as_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}


ALLOWED: dict[str, str] = {
    "min_channels": "a whole number of channels",
    "min_input_size": "a number of pixels, such as 192, or height x width, such as 160x224",
}


def _wrong(name: str, data: Mapping[str, Any]) -> str:
    allowed = ALLOWED.get(name, 'a list of names, such as ["head", "layer3.*"]')
    return f"constraints.{name} must be {allowed}, not {data[name]!r}"
