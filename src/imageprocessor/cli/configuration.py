"""The settings as they are: value, origin and meaning of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from imageprocessor.core.variants import VariantSpec
from imageprocessor.environment import find_origin
from imageprocessor.settings import Settings, accepted_form, is_secret


def list_settings(settings: Settings, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return ``name``, ``value``, ``origin``, ``meaning`` and ``accepted`` of every setting.

    Secrets are hidden.
    """
    return [
        {
            "name": name.upper(),
            "value": "(hidden)"
            if is_secret(name) and getattr(settings, name)
            else show_value(getattr(settings, name)),
            "origin": find_origin(name, environ),
            "meaning": field.description or "",
            "accepted": accepted_form(name),
        }
        for name, field in Settings.model_fields.items()
    ]


def show_value(value: Any) -> str:
    """Return a setting's value in a form that the setting accepts; nothing for what is unset.

    >>> show_value((VariantSpec("card", width=400),))
    '{"card": {"width": 400, "fit": "inside", "quality": 85}}'
    >>> show_value(("photos", "avatars")), show_value(True), show_value(None)
    ('photos,avatars', 'true', '')
    """
    if isinstance(value, tuple) and value and isinstance(value[0], VariantSpec):
        return json.dumps(dict(map(_show_size, value)))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return (
        str(value).lower() if isinstance(value, bool) else str(value if value is not None else "")
    )


def _show_size(spec: VariantSpec) -> tuple[str, dict[str, Any]]:
    options = asdict(spec)
    return options.pop("name"), {
        option: value for option, value in options.items() if value is not None
    }
