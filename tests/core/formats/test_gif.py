from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import imageprocessor as ip
from imageprocessor.core.formats import gif as reader
from imageprocessor.core.formats.container import Header
from imageprocessor.core.metadata import read_metadata
from imageprocessor.errors import InputError, InvalidImageError, TruncatedImageError
from tests.gifs import (
    LIMITS,
    PALETTE,
    animated_gif,
    application,
    blocks,
    comment,
    control,
    extension,
    frame,
    gif,
    loop,
    plain_text,
    planted_gif,
)
from tests.images import SENTINELS, SRGB_PROFILE, encode, photo, pixels

PLAIN = gif((8, 6), frame((8, 6), range(48)))
ANIMATED = animated_gif()
PILLOWS = encode(photo(40, 30).quantize(60), "GIF", interlace=1)


def clean(data: bytes) -> bytes:
    return reader.join(piece.clean for piece in reader.read_pieces(BytesIO(data)))


def kinds(data: bytes) -> list[str]:
    return [kind for piece in reader.read_pieces(BytesIO(data)) for kind in piece.kinds]


@pytest.mark.parametrize(
    ("data", "size", "decoded", "frames"),
    [
        (PLAIN, (8, 6), (8, 6), 1),
        (PILLOWS, (40, 30), (40, 30), 1),
        (ANIMATED, (8, 6), (8, 6), 3),
        (gif((9, 9), frame((2, 2), 0, at=(3, 4))), (9, 9), (9, 9), 1),
        (gif((0, 0), frame((8, 6), 0)), (8, 6), (8, 6), 1),
        (gif((4, 4), frame((8, 6), 0, at=(5, 5))), (13, 11), (13, 11), 1),
        (gif((4, 4), frame((4, 4), 0), frame((8, 6), 0, at=(5, 5))), (4, 4), (13, 11), 2),
    ],
)
def test_the_header_has_the_screen_with_its_first_image_and_the_number_of_images(
    data: bytes, size: tuple[int, int], decoded: tuple[int, int], frames: int
) -> None:
    assert reader.read_header(BytesIO(data)) == Header(*size, frames, decoded)


def test_only_whole_images_of_a_truncated_animation_count() -> None:
    assert reader.read_header(BytesIO(ANIMATED[:-9])).frames == 2


@pytest.mark.parametrize("size_bytes", [4, 12, 300, 782, len(PLAIN) - 3])
def test_a_file_that_ends_before_its_first_image_does_is_truncated(size_bytes: int) -> None:
    with pytest.raises(TruncatedImageError, match=f" {size_bytes} bytes"):
        reader.read_header(BytesIO(PLAIN[:size_bytes]))
    with pytest.raises(TruncatedImageError, match=f" {size_bytes} bytes"):
        clean(PLAIN[:size_bytes])


@pytest.mark.parametrize(
    "data",
    [
        b"GIF88a" + PLAIN[6:],
        gif((8, 6)),
        gif((8, 6), comment(b"only text")),
        gif((8, 6), frame((0, 6), [])),
        gif((8, 6), b"x" * 99),
    ],
)
def test_a_file_without_an_image_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match="Re-encode it"):
        reader.read_header(BytesIO(data))


@pytest.mark.parametrize("data", [PLAIN, ANIMATED, PILLOWS])
def test_a_plain_gif_is_unchanged(data: bytes) -> None:
    assert clean(data) == data
    assert kinds(data) == []


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (comment(b"a secret"), "comment"),
        (plain_text(b"a secret"), "comment"),
        (application(b"XMP DataXMP", b"<x/>"), "xmp"),
        (application(b"C2PA_GIF\1\0\0", b"a secret"), "c2pa"),
        (application(b"ABCDEFGH123", b"a secret"), "other"),
        (application(b"NETSCAPE2.0", b"\2\0\0\0\0"), "other"),
        (b"\x21\xff\x05SHORT\0", "other"),
        (extension(0x42, b"a secret"), "other"),
    ],
)
def test_every_kind_of_metadata_is_named_and_dropped(part: bytes, kind: str) -> None:
    for data in (gif((8, 6), part, PLAIN[781:-1]), PLAIN[:-1] + part + b";"):
        assert kinds(data) == [kind]
        assert clean(data) == PLAIN


def test_loop_count_and_delays_are_kept_and_what_follows_their_fields_is_not() -> None:
    hidden = gif(
        (8, 6),
        b"\x21\xff\x0bNETSCAPE2.0\3\1\7\0\6hidden\0",
        b"\x21\xf9\4\0\4\0\0\6hidden\0" + frame((8, 6), 3),
    )
    assert clean(hidden) == gif((8, 6), loop(7), control(4), frame((8, 6), 3))


def test_the_delay_of_a_dropped_text_is_dropped_with_it() -> None:
    with_text = gif((8, 6), control(90) + plain_text(b"x"), control(4) + frame((8, 6), 3))
    assert clean(with_text) == gif((8, 6), control(4) + frame((8, 6), 3))


def test_no_private_byte_of_a_planted_gif_survives_and_the_animation_does() -> None:
    data = planted_gif()
    stripped = ip.strip_metadata(data, LIMITS)
    assert [sentinel for sentinel in SENTINELS if sentinel in stripped] == []
    assert stripped == gif(
        (8, 6), loop(), control() + frame((8, 6), 1), control() + frame((8, 6), 2)
    )
    assert pixels(stripped) == pixels(data)
    assert read_metadata(data).kinds == ("comment", "xmp", "c2pa", "other", "trailer")
    assert read_metadata(stripped).kinds == ()


def test_a_profile_is_kept_by_strip_and_applied_by_process() -> None:
    data = gif((8, 6), application(b"ICCRGBG1012", SRGB_PROFILE), frame((8, 6), range(48)))
    assert ip.strip_metadata(data, LIMITS) == data
    assert read_metadata(data).icc == "sRGB built-in"
    assert ip.process(data, limits=LIMITS).removed == ("icc",)


@pytest.mark.parametrize("tail", [bytes(9), b"a secret in the coded data"])
def test_bytes_behind_the_last_pixel_are_found(tail: bytes) -> None:
    data = gif((8, 6), frame((8, 6), range(48)), frame((8, 6), range(48), tail=tail))
    assert ip.strip_metadata(data, LIMITS) == data
    with pytest.raises(InvalidImageError, match="GIF is damaged: there is image data behind"):
        ip.strip_metadata(data, LIMITS, check_pixels=True)


@pytest.mark.parametrize("data", [PLAIN, ANIMATED, PILLOWS, gif((1, 1), frame((1, 1), 0))])
def test_whole_images_pass_the_check_of_pixels(data: bytes) -> None:
    assert ip.strip_metadata(data, LIMITS, check_pixels=True) == data


@pytest.mark.parametrize(
    ("hundredths", "seconds"), [([4, 4, 4], 0.12), ([0, 1, 2], 0.22), ([100, 0, 65_535], 656.45)]
)
def test_the_duration_of_an_animation_is_what_browsers_take(
    hundredths: Sequence[int], seconds: float
) -> None:
    parts = [control(delay) + frame((8, 6), 0) for delay in hundredths]
    info = ip.validate(gif((8, 6), *parts), LIMITS)
    assert (info.frames, info.duration) == (3, seconds)


def test_a_still_image_has_no_duration() -> None:
    assert ip.validate(gif((8, 6), control(50) + frame((8, 6), 0)), LIMITS).duration is None


@pytest.mark.parametrize(
    "unit",
    [b"\x21\xfe\0", b"\x21\xf9\4\0\0\0\0\0", frame((1, 1), 0), b"\1\1"],
    ids=["comments", "controls", "images", "blocks"],
)
def test_work_on_two_hostile_megabytes_is_linear(unit: bytes) -> None:
    start = PLAIN[:-1] + (b"\x21\xfe" if unit == b"\1\1" else b"")
    data = start + unit * (2_000_000 // len(unit))
    started = time.process_time()
    for read in (lambda: reader.read_header(BytesIO(data)), lambda: clean(data)):
        with suppress(InputError):
            read()
    assert time.process_time() - started < 5  # usually half a second


parts = st.one_of(
    st.builds(comment, st.binary(max_size=300)),
    st.builds(plain_text, st.binary(max_size=9)),
    st.builds(extension, st.integers(0, 255), st.binary(max_size=20)),
    st.builds(application, st.binary(min_size=11, max_size=11), st.binary(max_size=20)),
    st.builds(control, st.integers(0, 65_535), disposal=st.integers(0, 7)),
    st.builds(
        frame,
        st.just((2, 2)),
        st.lists(st.integers(0, 255), min_size=4, max_size=4),
        at=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        palette=st.sampled_from([b"", PALETTE]),
    ),
)


@settings(max_examples=50)
@given(st.lists(parts, max_size=6), st.binary(max_size=20))
def test_stripped_gif_has_the_same_pixels_and_no_metadata(added: list[bytes], tail: bytes) -> None:
    data = gif((4, 4), frame((4, 4), range(16)), *added) + tail
    stripped = ip.strip_metadata(data, LIMITS)
    before, after = ip.validate(data, LIMITS), ip.validate(stripped, LIMITS)
    assert (after.width, after.height, after.frames) == (before.width, before.height, before.frames)
    assert read_metadata(stripped).kinds == ()
    assert clean(stripped) == stripped
    assert len(stripped) <= len(data)
    with Image.open(BytesIO(stripped)) as image, Image.open(BytesIO(data)) as original:
        assert image.convert("RGBA").tobytes() == original.convert("RGBA").tobytes()


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(0, len(PLAIN)))
def test_any_bytes_are_read_or_refused(noise: bytes, place: int) -> None:
    data = PLAIN[:place] + noise
    for read in (lambda: reader.read_header(BytesIO(data)), lambda: clean(data)):
        with suppress(InvalidImageError, TruncatedImageError):
            read()


def test_a_chain_of_blocks_may_cross_the_end_of_what_is_read_at_once() -> None:
    data = gif((8, 6), extension(0xFE, bytes(1 << 19)), frame((8, 6), range(48)))
    assert blocks(bytes(1 << 19)) in data
    assert clean(data) == PLAIN
