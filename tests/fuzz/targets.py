"""Checks that must hold for any bytes: a failure is an AssertionError or an unexpected error."""

from __future__ import annotations

import re
from contextlib import suppress
from io import BytesIO

import imageprocessor as ip
from imageprocessor.core.formats.registry import FORMATS, list_installed_mime_types
from imageprocessor.core.metadata import read_metadata
from imageprocessor.core.orientation import orientation_exif

ACCEPTED = frozenset(list_installed_mime_types())
LIMITS = ip.Limits(max_bytes=1 << 20, max_pixels=250_000, max_frames=30, mime_types=ACCEPTED)
SIZES = (
    ip.VariantSpec("small", width=16, effort=0),
    ip.VariantSpec("square", 24, 24, "cover", effort=0),
    ip.VariantSpec("round", width=20, rotate=90, trim=True, pad=2, blur=1, radius=9, effort=0),
    ip.VariantSpec("moving", width=16, trim=True, animation="keep", effort=0),
)
LONGEST_ORIENTATION = (
    len(orientation_exif(6)) + 24
)  # including the chunk's header and, in a WebP, its padding


def check_validate(data: bytes) -> None:
    """Check that a file is refused, or is within the limits."""
    with suppress(ip.InputError):
        info = ip.validate(data, LIMITS)
        assert 0 < info.width * info.height <= LIMITS.max_pixels
        assert info.frames >= 1
        assert (info.duration is None) == (info.frames == 1)


def check_containers(data: bytes) -> None:
    """Check that what a reader returns is a file for which it returns the same again."""
    for image_format in FORMATS.values():
        container = image_format.container
        with suppress(ip.InputError):
            header = container.read_header(BytesIO(data))
            assert header.frames >= 1
            if image_format.read_durations is not None:
                assert all(time >= 0 for time in image_format.read_durations(BytesIO(data)))
            clean = container.join(piece.clean for piece in container.read_pieces(BytesIO(data)))
            again = container.read_pieces(BytesIO(clean))
            assert container.join(piece.clean for piece in again) == clean


def check_strip(data: bytes) -> None:
    """Check that stripping keeps the size, leaves no metadata, and is idempotent."""
    with suppress(ip.InputError):
        read_metadata(data)
        clean = ip.strip_metadata(data, LIMITS)
        assert ip.validate(clean, LIMITS) == ip.validate(data, LIMITS)
        assert set(read_metadata(clean).kinds) <= {"icc", "exif"}
        assert len(clean) <= len(data) + LONGEST_ORIENTATION
        assert ip.strip_metadata(clean, LIMITS) == clean


def check_process(data: bytes) -> None:
    """Check that an image becomes WebP variants, or is refused."""
    with suppress(ip.InputError):
        image = ip.process(data, SIZES, LIMITS)
        assert (
            image.original_dimensions.width * image.original_dimensions.height <= LIMITS.max_pixels
        )
        assert all(
            ip.validate(variant.data).format == "WEBP" for variant in image.variants.values()
        )


def check_operations(data: bytes) -> None:
    """Check that operations are read, and written so that they are read as the same, or refused."""
    with suppress(ip.InvalidTransformationError):
        wanted = ip.Transformation.parse(data.decode(errors="replace"))
        written = str(wanted)
        assert re.fullmatch("[a-z0-9_,:.-]{0,500}", written)
        assert not re.search(r"\.\d{4}|\.\d*0(?!\d)", written), "more decimals than needed"
        assert ip.Transformation.parse(written) == wanted
        assert str(ip.Transformation.parse(written)) == written
