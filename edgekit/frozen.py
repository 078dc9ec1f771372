"""The base of all data that goes between stages, into files and into documents."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Validated, unchangeable data that turns into JSON and back. A field ``schema_`` is the JSON
    key ``schema``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        serialize_by_alias=True,
        protected_namespaces=(),
    )

    def replaced(self, **values: Any) -> Self:
        """A copy with other values for these fields, validated as a whole.

        Raises TypeError: there is no such field; pydantic.ValidationError: a value is not valid.
        """
        if unknown := values.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return type(self).model_validate(dict(self) | values)


class Extensible(Frozen):
    """Of which a later version may write more: unknown keys are left out when it is read."""

    model_config = ConfigDict(extra="ignore")
