from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.errors import InvalidMetadataError
from imageprocessor.queue.client_metadata import parse_context

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_empty_text_is_an_empty_object(text: str) -> None:
    assert parse_context(text) == {}


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '"text"',
        "1",
        "null",
        "true",
        "{",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "' + "x" * 17_000 + '"}',
        '{"a":' * 9 + "1" + "}" * 9,
        "[" * 16_000,
        '{"a":' * 3_000,
        "{\ud800",
    ],
)
def test_invalid_metadata_is_refused(text: str) -> None:
    with pytest.raises(InvalidMetadataError):
        parse_context(text)


@pytest.mark.parametrize("levels", [9, 500, 900, 2_700])
def test_more_than_eight_levels_are_refused(levels: int) -> None:
    with pytest.raises(InvalidMetadataError, match="nested deeper than 8"):
        parse_context('{"a":' * levels + "1" + "}" * levels)


def test_eight_levels_are_accepted() -> None:
    assert parse_context('{"a":' * 8 + "1" + "}" * 8)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_accepted_metadata_is_returned_unchanged(value: dict[str, object]) -> None:
    try:
        assert parse_context(json.dumps(value)) == value
    except InvalidMetadataError:
        assert (
            "\\ud" in json.dumps(value)
            or len(json.dumps(value)) > 16_000
            or json.dumps(value).count("[") > 1
        )
