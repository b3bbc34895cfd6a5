"""The ``metadata`` sent with an upload: stored and returned to its owner, never interpreted."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from imageprocessor.errors import InvalidMetadataError

MAX_BYTES = 16 * 1024
MAX_DEPTH = 8
JSON_TYPES = {list: "array", str: "string", bool: "boolean", type(None): "null"}


def parse_context(text: str) -> dict[str, Any]:
    """Return the JSON object in *text*, or an empty object if *text* is empty.

    >>> parse_context('{"activity_id": "xyz"}')
    {'activity_id': 'xyz'}

    Raises:
        InvalidMetadataError: *text* is not a JSON object, is above 16 KiB, is nested deeper than 8
            levels, or has values that JSON cannot represent (NaN, infinities, lone surrogates).
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidMetadataError(
            f"metadata is longer than {MAX_BYTES} bytes. Send less and store the rest yourself."
        )
    if not text.strip():
        return {}
    value = _parse(text)
    if not isinstance(value, dict):
        kind = JSON_TYPES.get(type(value), "number")
        raise InvalidMetadataError(f"metadata is a JSON {kind}. Send an object, such as {{}}.")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidMetadataError(
            f"metadata is nested deeper than {MAX_DEPTH} levels. Flatten it."
        )
    return value


def _parse(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise InvalidMetadataError(
            f"metadata is nested deeper than {MAX_DEPTH} levels. Flatten it."
        ) from None
    except ValueError as error:
        raise InvalidMetadataError(
            f"metadata is not valid JSON ({error}). Send a JSON object."
        ) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)
