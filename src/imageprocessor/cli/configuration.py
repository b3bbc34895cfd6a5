"""The current settings: value, origin and meaning of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imageprocessor.core.variants import VariantSpec
from imageprocessor.environment import find_origins
from imageprocessor.settings import Settings, accepted_form, is_secret


def list_settings(
    settings: Settings, environ: Mapping[str, str], *, shows_secrets: bool = False
) -> list[dict[str, str]]:
    """Return each setting's name, value, origin, meaning and accepted form.

    Secrets are hidden unless *shows_secrets*.
    """
    origins = find_origins(environ)
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        is_hidden = is_secret(name) and value and not shows_secrets
        row = {
            "name": name.upper(),
            "value": "(hidden)" if is_hidden else show_value(value),
            "origin": origins[name],
            "meaning": field.description or "",
            "accepted": accepted_form(name),
        }
        rows.append(row)
    return rows


def show_value(value: Any) -> str:
    """Return a setting's value in a form that the setting accepts; an empty string if unset.

    >>> show_value((VariantSpec("card", width=400),))
    '{"card": {"width": 400}}'
    >>> show_value(("photos", "avatars")), show_value(True), show_value(None)
    ('photos,avatars', 'true', '')
    """
    if value is None:
        return ""
    if hasattr(value, "get_secret_value"):  # pydantic's SecretStr
        return str(value.get_secret_value())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and isinstance(value[0], VariantSpec):
        sizes = {}
        for spec in value:
            options = spec.list_changes()
            sizes[options.pop("name")] = options
        return json.dumps(sizes)
    if isinstance(value, tuple):
        return ",".join(map(show_value, value))
    return str(value)
