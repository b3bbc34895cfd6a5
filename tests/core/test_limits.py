from __future__ import annotations

import pytest

from imageprocessor.core.limits import Limits, check_dimensions, check_size
from imageprocessor.errors import (
    DimensionTooLargeError,
    FileTooLargeError,
    InputError,
    InvalidImageError,
    TooManyPixelsError,
)

LIMITS = Limits(max_bytes=100, max_pixels=1000, max_side=500)


@pytest.mark.parametrize(("width", "height"), [(500, 2), (2, 500), (1, 1), (25, 40)])
def test_bounds_are_inclusive(width: int, height: int) -> None:
    check_dimensions(width, height, LIMITS)
    check_size(100, LIMITS)


@pytest.mark.parametrize(
    ("width", "height", "error"),
    [
        (0, 10, InvalidImageError),
        (10, 0, InvalidImageError),
        (501, 1, DimensionTooLargeError),
        (1, 501, DimensionTooLargeError),
        (1001, 1001, DimensionTooLargeError),
        (143, 7, TooManyPixelsError),
    ],
)
def test_dimensions_out_of_bounds_are_refused_with_their_value(
    width: int, height: int, error: type[InputError]
) -> None:
    with pytest.raises(error, match=f"{width} x {height}"):
        check_dimensions(width, height, LIMITS)


def test_a_file_one_byte_too_large_is_refused_with_both_numbers() -> None:
    with pytest.raises(FileTooLargeError, match=r"101 bytes.*100"):
        check_size(101, LIMITS)
