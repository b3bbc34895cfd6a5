"""From the environment and `.env` to the settings.

Entry points call it; nothing else reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from imageprocessor.errors import SettingsError
from imageprocessor.settings import Settings, accepted_form, is_secret


def load_settings(environ: Mapping[str, str], env_file: Path = Path(".env")) -> Settings:
    """Build the settings from *environ*, then *env_file*, then the defaults.

    Empty values count as unset.

    Raises:
        SettingsError: Lists every wrong setting: variable, value (secrets hidden) and accepted
            form.
    """
    values = {
        name: value
        for name in Settings.model_fields
        if (value := _find(name, environ, env_file)[0])
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_describe_faults(error, values)) from None


def find_origin(name: str, environ: Mapping[str, str], env_file: Path = Path(".env")) -> str:
    """Tell where :func:`load_settings` takes the setting *name* from.

    A variable, a file, or the default.
    """
    return _find(name, environ, env_file)[1]


def _find(name: str, environ: Mapping[str, str], env_file: Path) -> tuple[str, str]:
    variable = name.upper()
    from_file = {key: value or "" for key, value in dotenv_values(env_file).items()}
    for source, origin in ((environ, "environment"), (from_file, str(env_file))):
        if source.get(variable):
            return source[variable], origin
        if path := source.get(f"{variable}_FILE"):
            return _read_secret_file(variable, path), f"{variable}_FILE"
    return "", "default"


def _read_secret_file(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable}_FILE={path}: cannot be read ({error}); name a readable text file"
        ) from None


def _describe_faults(error: ValidationError, values: Mapping[str, str]) -> str:
    derived = (
        "default_factory_not_called"  # a default that stands on a setting which is wrong itself
    )
    faults = {
        str(fault["loc"][0]): fault["msg"] for fault in error.errors() if fault["type"] != derived
    }
    lines = [
        f"  {_describe_fault(name, values.get(name), message)}" for name, message in faults.items()
    ]
    return "\n".join([f"{len(lines)} setting(s) are wrong:", *lines])


def _describe_fault(name: str, value: str | None, message: str) -> str:
    shown = "(unset)" if value is None else "(hidden)" if is_secret(name) else repr(value)
    fault, form = (
        message.removeprefix("Value error, ").rstrip("."),
        accepted_form(name).replace("`", ""),
    )
    return f"{name.upper()}={shown}: {fault}. Accepted: {form}"
