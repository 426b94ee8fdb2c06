"""Serializers that refuse what they do not know, and reach only rows of the scope in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.settings import api_settings


class ScopedRelatedField(serializers.PrimaryKeyRelatedField):
    """A reference by id. Another tenant's row is as absent as one that never was."""

    default_error_messages = {"does_not_exist": "{pk_value} not found."}


class StrictSerializer(serializers.Serializer[Any]):
    """Refuse unknown fields by name, and read-only ones unless they are sent back unchanged."""

    def to_internal_value(self, data: Any) -> Any:
        refused = {**self._missing(data), **self._refused(data)} if isinstance(data, Mapping) else {}
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if not refused or not isinstance(error.detail, dict):
                raise
            raise serializers.ValidationError({**error.detail, **refused}) from None
        if refused:
            raise serializers.ValidationError(refused)
        return value

    def _refused(self, data: Mapping[str, Any]) -> dict[str, list[str]]:
        refused = {
            name: [f"Unknown field. Known are: {', '.join(self._writable())}."]
            for name in data
            if name not in self.fields
        }
        read_only = [name for name in data if name in self.fields and self.fields[name].read_only]
        if read_only:
            # whoever reads, changes and sends back is right to send these along
            shown = self.to_representation(self.instance) if self._has_one_instance() else {}
            for name in read_only:
                if name not in shown or shown[name] != data[name]:
                    refused[name] = ["This field is read-only."]
        return {str(name): messages for name, messages in refused.items()}

    def _missing(self, data: Mapping[str, Any]) -> dict[str, list[str]]:
        """Find what a body inside a PATCH lacks: it is replaced as a whole, so it must be whole.

        DRF takes "partial" to reach down to it, and would let it through without its required fields.
        """
        if self.parent is None or not getattr(self.root, "partial", False):
            return {}
        return {
            name: ["This field is required."]
            for name, field in self.fields.items()
            if field.required and not field.read_only and name not in data
        }

    def _writable(self) -> list[str]:
        return [name for name, field in self.fields.items() if not field.read_only]

    def _has_one_instance(self) -> bool:
        return self.instance is not None and not isinstance(self.instance, list | tuple)


class TenantSerializer(StrictSerializer, serializers.ModelSerializer[Any]):
    """A row of the tenant in force. `tenant` itself is never a field: the key says it."""

    serializer_related_field = ScopedRelatedField


def whole_body(message: str) -> serializers.ValidationError:
    """Make the error of a body as a whole, where no field is at fault."""
    return serializers.ValidationError({api_settings.NON_FIELD_ERRORS_KEY: [message]})
