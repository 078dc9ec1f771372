"""The base classes of data that is passed between stages and written to files and documents."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

Value = TypeVar("Value")


class _OmittedMark:
    """Marks fields for the serializer of Frozen."""


# For a field that older versions did not have, or whose value may be unknown: if it has its default
# value, JSON has no such key. Files of older versions keep their bytes and with them their digests.
Omitted = Annotated[Value, _OmittedMark()]


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

    @model_serializer(mode="wrap")
    def _without_omitted(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name, default in _omitted(type(self)).items():
            if getattr(self, name) == default:
                written.pop(name, None)
        return written

    def replaced(self, **values: Any) -> Self:
        """A validated copy with other values for these fields.

        Raises TypeError for an unknown field, pydantic.ValidationError for an invalid value.
        """
        if unknown := values.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return type(self).model_validate(dict(self) | values)


@cache
def _omitted(model: type[Frozen]) -> dict[str, Any]:
    """The fields of a class that may be omitted, with their defaults."""
    return {
        name: field.default
        for name, field in model.model_fields.items()
        if any(isinstance(mark, _OmittedMark) for mark in field.metadata)
    }


class Extensible(Frozen):
    """Data that later versions may extend: unknown keys are ignored when it is read."""

    model_config = ConfigDict(extra="ignore")
