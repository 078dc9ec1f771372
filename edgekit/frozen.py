"""The base classes of data that is passed between stages and written to files and documents."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


def is_none(value: object) -> bool:
    """For ``Field(exclude_if=is_none)``: JSON then has no key for an unknown value. Files of older
    versions, which have no such key, keep their bytes and with them their digests.
    """
    return value is None


def is_empty(value: object) -> bool:
    """Like ``is_none``, for lists and tables that older versions did not have."""
    return not value


class Frozen(BaseModel):
    """Validated, immutable data that converts to JSON and back. A field ``schema_`` is the JSON key
    ``schema``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        serialize_by_alias=True,
        protected_namespaces=(),
    )

    def replaced(self, **values: Any) -> Self:
        """A validated copy with other values for these fields.

        Raises TypeError for an unknown field, pydantic.ValidationError for an invalid value.
        """
        if unknown := values.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return type(self).model_validate(dict(self) | values)


class Extensible(Frozen):
    """Data that later versions may extend: unknown keys are ignored when it is read."""

    model_config = ConfigDict(extra="ignore")
