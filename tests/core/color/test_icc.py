from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from imageprocessor.core.color.icc import (
    GRAY_CURVE,
    gamma_curve,
    read_curve,
    read_tags,
    write_profile,
)
from tests.images import SRGB_PROFILE


def parametric(kind: int, *values: float) -> bytes:
    numbers = [round(65536 * value) for value in values]
    return b"para" + struct.pack(f">4xHH{len(numbers)}i", kind, 0, *numbers)


def table(*samples: int) -> bytes:
    return b"curv" + struct.pack(f">4xI{len(samples)}H", len(samples), *samples)


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(table(), id="no samples: linear"),
        pytest.param(table(round(1.8 * 256)), id="one sample: a gamma"),
        pytest.param(table(0, 65535), id="two samples"),
        pytest.param(table(0, 1000, 9000, 30000, 65535), id="five samples"),
        pytest.param(parametric(0, 2.2), id="parametric 0"),
        pytest.param(parametric(1, 2.0, 1.1, -0.1), id="parametric 1"),
        pytest.param(parametric(2, 2.0, 0.9, -0.1, 0.2), id="parametric 2"),
        pytest.param(parametric(3, 2.4, 0.9479, 0.0521, 0.0774, 0.0405), id="parametric 3"),
        pytest.param(parametric(4, 2.0, 0.8, 0.1, 0.3, 0.2, 0.1, 0.05), id="parametric 4"),
    ],
)
def test_curves_are_read_as_littlecms_reads_them(tag: bytes) -> None:
    gray = ImageCms.ImageCmsProfile(io.BytesIO(write_profile({GRAY_CURVE: tag})))
    linear = ImageCms.ImageCmsProfile(io.BytesIO(write_profile({GRAY_CURVE: gamma_curve(1.0)})))
    levels = Image.frombytes("L", (256, 1), bytes(range(256)))
    transform = ImageCms.ImageCmsTransform(
        gray,
        linear,
        "L",
        "L",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.NOOPTIMIZE,
    )
    expected = np.asarray(transform.apply(levels))[0].astype(int)
    curve = read_curve(tag)
    light = np.array([curve(level / 255) for level in range(256)])
    assert np.abs(255 * light.clip(0, 1) - expected).max() <= 1


@pytest.mark.parametrize(
    "tag",
    [
        b"",
        b"curv",
        b"XYZ " + bytes(16),
        b"curv" + bytes(4) + struct.pack(">I", 0xFFFFFFFF),
        table(1, 2, 3)[:-1],
        parametric(5, 1.0),
        parametric(0),
        parametric(1, 2.0, 0.0, 0.5),
    ],
)
def test_damaged_curves_are_errors(tag: bytes) -> None:
    with pytest.raises((ValueError, struct.error, ZeroDivisionError)):
        read_curve(tag)


def test_tags_beyond_the_end_of_a_profile_are_omitted() -> None:
    tags = read_tags(SRGB_PROFILE)
    assert tags[b"rXYZ"][:4] == b"XYZ "
    shorter = read_tags(SRGB_PROFILE[:-100])
    assert 0 < len(shorter) < len(tags)
    for size in (0, 127, 131, 140):
        assert read_tags(SRGB_PROFILE[:size]) == {}
    assert read_tags(SRGB_PROFILE[:128] + b"\xff" * 400) == {}
