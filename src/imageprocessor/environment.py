"""Reading the settings from the environment and ``.env``.

Entry points call it; nothing else reads the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from dotenv import dotenv_values
from pydantic import ValidationError

from imageprocessor.core.variants import VariantSpec
from imageprocessor.errors import SettingsError
from imageprocessor.settings import Settings, accepted_form, is_secret

ENV_FILE = Path(".env")
DEFAULT = "default"
#: JWT_SECRET resembles JWT_SECRET_KEY; no name in .env.example for other programs resembles any.
SIMILARITY = 0.8
MARKDOWN_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


def load_settings(environ: Mapping[str, str], env_file: Path = ENV_FILE) -> Settings:
    """Return the settings from *environ*, *env_file* and the defaults, in this order.

    Empty values count as unset.

    Raises:
        SettingsError: A setting is wrong. The message lists all wrong settings with variable, value
            (secrets hidden) and accepted form.
    """
    found = _read_values(environ, env_file)
    values = {name: value.text for name, value in found.items() if value.text}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_describe_faults(error, values)) from None


def find_origins(environ: Mapping[str, str], env_file: Path = ENV_FILE) -> dict[str, str]:
    """Return the origin of each setting that :func:`load_settings` returns, by name.

    An origin is ``environment``, ``NAME_FILE``, the path of *env_file* or ``default``.
    """
    origins = dict.fromkeys(Settings.model_fields, DEFAULT)
    for name, value in _read_values(environ, env_file).items():
        origins[name] = value.origin
    return origins


def find_misspelt_names(env_file: Path = ENV_FILE) -> dict[str, str]:
    """Return each name in *env_file* that is no setting but resembles one, with that setting.

    The environment is not searched, because it has many names of other programs.
    """
    known = [name.upper() for name in Settings.model_fields]
    accepted = {*known, *(f"{name}_FILE" for name in known)}
    misspelt = {}
    for name in dotenv_values(env_file):
        similar = get_close_matches(name.upper(), known, n=1, cutoff=SIMILARITY)
        if name not in accepted and similar:
            misspelt[name] = similar[0]
    return misspelt


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
            "meaning": _remove_markup(field.description or ""),
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


def _remove_markup(text: str) -> str:
    """Return Markdown as plain text.

    >>> _remove_markup("Token for [Prometheus](metrics.md), which reads `/metrics`.")
    'Token for Prometheus, which reads /metrics.'
    """
    return MARKDOWN_LINK.sub(r"\1", text).replace("`", "")


class _Value(NamedTuple):
    text: str
    origin: str


def _read_values(environ: Mapping[str, str], env_file: Path) -> dict[str, _Value]:
    """Return text and origin of every setting that the environment or the file contains."""
    file_values = {name: value or "" for name, value in dotenv_values(env_file).items()}
    sources = [(environ, "environment"), (file_values, str(env_file))]
    found: dict[str, _Value] = {}
    for name in Settings.model_fields:
        for source, origin in sources:
            value = _read_value(name.upper(), source, origin)
            if value is not None:
                found[name] = value
                break
    return found


def _read_value(variable: str, source: Mapping[str, str], origin: str) -> _Value | None:
    """Return the value of *variable* in *source*, or the content of the file in ``NAME_FILE``."""
    if text := source.get(variable):
        return _Value(text, origin)
    path = source.get(f"{variable}_FILE")
    if not path:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable}_FILE={path}: the file cannot be read ({error}). Name a readable text file."
        ) from None
    return _Value(text, f"{variable}_FILE")


def _describe_faults(error: ValidationError, values: Mapping[str, str]) -> str:
    """Return the number of wrong settings, then a line for each."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        # The default depends on another wrong setting, which has its own line.
        if fault["type"] == "default_factory_not_called":
            continue
        name = str(fault["loc"][0])
        value = values.get(name)
        if value is None:
            shown = "(unset)"
        elif is_secret(name):
            shown = "(hidden)"
        else:
            shown = repr(value)
        message = fault["msg"].removeprefix("Value error, ").rstrip(".")
        form = accepted_form(name).replace("`", "")
        lines[name] = f"  {name.upper()}={shown}: {message}. Accepted: {form}"
    summary = f"{len(lines)} setting(s) are wrong:"
    return "\n".join([summary, *lines.values()])
