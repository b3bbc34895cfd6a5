from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imageprocessor.core.limits import Limits
from imageprocessor.core.metadata import Metadata, read_metadata, strip_metadata
from imageprocessor.core.orientation import orientation_exif, read_orientation
from imageprocessor.core.validate import validate
from imageprocessor.errors import (
    InputError,
    TooManyPixelsError,
    TruncatedImageError,
    UnsupportedTypeError,
)
from tests.images import (
    CORPUS,
    SENTINELS,
    SRGB_PROFILE,
    animated_webp,
    apng,
    each_photograph,
    encode,
    insert_chunks,
    insert_segments,
    jpeg_segment,
    needs_photographs,
    oriented,
    photo,
    pixels,
    planted_exif,
    planted_jpeg,
    planted_png,
    planted_webp,
    png_chunk,
    riff,
    truncated,
    webp_chunk,
)

ORIENTATIONS = range(1, 9)
STILL_WEBP = encode(photo(64, 48), "WEBP", icc_profile=SRGB_PROFILE)
PLANTED = {
    "jpeg": planted_jpeg(),
    "baseline-jpeg": planted_jpeg(progressive=False),
    "png": planted_png(),
    "apng": planted_png(photo(64, 48).convert("P")),
    "webp": planted_webp(STILL_WEBP),
    "animated-webp": planted_webp(),
}
PLANTERS: list[Callable[[int], bytes]] = [
    lambda orientation: planted_jpeg(orientation=orientation),
    lambda orientation: planted_png(orientation=orientation),
    lambda orientation: planted_webp(STILL_WEBP, orientation),
]
planted = pytest.mark.parametrize("data", PLANTED.values(), ids=PLANTED.keys())
planters = pytest.mark.parametrize("plant", PLANTERS, ids=["JPEG", "PNG", "WEBP"])


def exif_of(data: bytes) -> bytes:
    with Image.open(BytesIO(data)) as image:
        block = image.info.get("exif", b"")
        assert isinstance(block, bytes)
        return block.removeprefix(b"Exif\0\0")


@planted
def test_strip_leaves_nothing_that_was_planted(data: bytes) -> None:
    assert sum(sentinel in data for sentinel in SENTINELS) >= 9
    assert [sentinel for sentinel in SENTINELS if sentinel in strip_metadata(data)] == []


@planted
def test_strip_changes_no_pixel_and_no_profile(data: bytes) -> None:
    clean = strip_metadata(data)
    assert pixels(clean) == pixels(data)
    assert validate(clean) == validate(data)
    with Image.open(BytesIO(clean)) as image:
        assert image.info["icc_profile"] == SRGB_PROFILE


@planted
def test_strip_leaves_only_orientation_and_profile(data: bytes) -> None:
    clean = strip_metadata(data)
    assert set(read_metadata(clean).kinds) == {"exif", "icc"}
    assert exif_of(clean) == orientation_exif(6)


@planted
def test_strip_of_a_stripped_file_changes_nothing(data: bytes) -> None:
    clean = strip_metadata(data)
    assert strip_metadata(clean) == clean


@planters
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_strip_keeps_every_orientation(plant: Callable[[int], bytes], orientation: int) -> None:
    clean = strip_metadata(plant(orientation))
    assert exif_of(clean) == (b"" if orientation == 1 else orientation_exif(orientation))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_stripped_image_is_displayed_as_before(image_format: str, orientation: int) -> None:
    data = oriented(photo(40, 24), orientation, image_format)
    with Image.open(BytesIO(data)) as before, Image.open(BytesIO(strip_metadata(data))) as after:
        assert ImageOps.exif_transpose(after).tobytes() == ImageOps.exif_transpose(before).tobytes()


@pytest.mark.parametrize(
    "data", [apng(), animated_webp(), encode(photo(9, 9), "JPEG"), encode(photo(9, 9), "PNG")]
)
def test_strip_does_not_change_a_file_without_metadata(data: bytes) -> None:
    assert strip_metadata(data) == data


def test_strip_accepts_paths_and_files(tmp_path: Path) -> None:
    data = planted_jpeg()
    path = tmp_path / "image"
    path.write_bytes(data)
    assert strip_metadata(path) == strip_metadata(BytesIO(data)) == strip_metadata(data)


@planted
def test_strip_of_a_truncated_file_is_an_error(data: bytes) -> None:
    with pytest.raises(TruncatedImageError):
        strip_metadata(truncated(strip_metadata(data), 0.9))


def test_strip_enforces_the_limits() -> None:
    with pytest.raises(TooManyPixelsError):
        strip_metadata(planted_png(), Limits(max_pixels=100))


def test_the_first_exif_block_counts_as_in_browsers() -> None:
    six, three = (jpeg_segment(0xE1, b"Exif\0\0" + orientation_exif(value)) for value in (6, 3))
    data = insert_segments(encode(photo(9, 9), "JPEG"), six, three)
    assert read_orientation(exif_of(strip_metadata(data))) == 6


@planted
def test_metadata_lists_what_a_file_reveals(data: bytes) -> None:
    metadata = read_metadata(data)
    assert {"exif", "thumbnail", "xmp", "icc", "c2pa", "other", "trailer"} <= set(metadata.kinds)
    assert metadata.gps == pytest.approx((-33.85997, 151.21111), abs=1e-5)
    assert (metadata.orientation, metadata.taken_at, metadata.icc) == (
        6,
        "2021-06-01T12:00:00",
        "sRGB built-in",
    )
    assert metadata.camera == "Acme PRIVATE-model-7f3a91"
    assert metadata.software == "PRIVATE-software-7f3a91"


def test_a_file_without_metadata_reveals_nothing() -> None:
    assert read_metadata(encode(photo(9, 9), "PNG")) == Metadata()


def with_exif(
    tags: dict[int, object], gps: dict[int, object] | None = None, taken: str | None = None
) -> bytes:
    exif = Image.Exif()
    exif.update(tags)
    if gps:
        exif.get_ifd(0x8825).update(gps)
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    return encode(photo(9, 9), "JPEG", exif=exif.tobytes())


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Apple", "iPhone 6", "Apple iPhone 6"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Canon", "canon EOS 5D", "canon EOS 5D"),
        ("Acme", "", "Acme"),
        ("", "Z1", "Z1"),
        ("\x1b[31mAcme\x07", "Z\x7f\u202e1", "[31mAcme Z1"),
        ("  ", "\t", None),
    ],
)
def test_the_camera_is_named_once_and_without_control_characters(
    make: str, model: str, camera: str | None
) -> None:
    tags: dict[int, object] = {0x010F: make.encode(), 0x0110: model.encode()}
    assert read_metadata(with_exif(tags)).camera == camera


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ("2021:06:01 12:00:00", "2021-06-01T12:00:00"),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
    ],
)
def test_an_impossible_time_is_omitted(taken: str, expected: str | None) -> None:
    assert read_metadata(with_exif({}, taken=taken)).taken_at == expected


@pytest.mark.parametrize(
    ("gps", "place"),
    [
        ({1: "N", 2: (1.0, 30.0, 0.0), 3: "W", 4: (2.0, 0.0, 36.0)}, (1.5, -2.01)),
        ({1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)}, None),
        ({1: "N", 2: (1.0, 0.0, 0.0)}, None),
    ],
)
def test_gps_is_in_signed_degrees_or_none(gps: dict[int, object], place: object) -> None:
    assert read_metadata(with_exif({}, gps)).gps == place


def test_a_position_with_a_zero_denominator_is_omitted() -> None:
    data = with_exif({}, {1: "N", 2: (77.0, 0.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)})
    for order in "<>":
        data = data.replace(struct.pack(f"{order}II", 77, 1), struct.pack(f"{order}II", 77, 0))
    assert "exif" in read_metadata(data).kinds
    assert read_metadata(data).gps is None


def test_a_broken_profile_is_not_an_error() -> None:
    data = encode(photo(9, 9), "JPEG", icc_profile=b"broken")
    assert read_metadata(data).icc is None
    assert read_metadata(data).kinds == ("icc",)


def test_a_profile_whose_parts_are_out_of_order_is_read() -> None:
    half = len(SRGB_PROFILE) // 2
    second, first = (
        jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + part)
        for number, part in ((2, SRGB_PROFILE[half:]), (1, SRGB_PROFILE[:half]))
    )
    assert (
        read_metadata(insert_segments(encode(photo(9, 9), "JPEG"), second, first)).icc
        == "sRGB built-in"
    )


def test_metadata_before_a_truncation_is_read() -> None:
    data = planted_jpeg()
    metadata = read_metadata(data[: data.index(b"MPF")])
    assert metadata.kinds[:4] == ("thumbnail", "exif", "gps", "xmp")
    assert metadata.gps is not None


def test_metadata_of_an_unknown_type_is_an_error() -> None:
    with pytest.raises(UnsupportedTypeError):
        read_metadata(b"text")


@needs_photographs
@each_photograph
def test_real_photographs_keep_their_pixels_and_lose_their_metadata(path: Path) -> None:
    clean = strip_metadata(path)
    assert pixels(clean) == pixels(path.read_bytes())
    assert read_metadata(clean).orientation == read_metadata(path).orientation
    assert set(read_metadata(clean).kinds) <= {"icc", "exif"}
    assert len(exif_of(clean)) in {0, 26}
    assert strip_metadata(clean) == clean


@needs_photographs
def test_position_and_camera_of_a_real_photograph_are_read() -> None:
    metadata = read_metadata(CORPUS / "exif/gps/DSCN0010.jpg")
    assert metadata.gps == pytest.approx((43.467448, 11.885127), abs=1e-6)
    assert (metadata.camera, metadata.taken_at) == ("NIKON COOLPIX P6000", "2008-10-22T16:28:39")


def jpeg_soup(noise: st.DataObject) -> bytes:
    segment = st.builds(
        jpeg_segment, st.integers(0xC0, 0xFF), st.binary(max_size=40) | st.just(planted_exif())
    )
    stray = st.binary(max_size=4)
    parts = noise.draw(st.lists(segment | stray, max_size=6))
    return insert_segments(PLANTED["baseline-jpeg"], *parts)


def png_soup(noise: st.DataObject) -> bytes:
    name = st.text("abcdXYZT", min_size=4, max_size=4).map(str.encode) | st.sampled_from(
        [b"IDAT", b"iCCP", b"eXIf"]
    )
    parts = noise.draw(st.lists(st.builds(png_chunk, name, st.binary(max_size=40)), max_size=6))
    return insert_chunks(
        PLANTED["png"], *parts, before=noise.draw(st.sampled_from([b"IDAT", b"IEND", b"tEXt"]))
    )


def webp_soup(noise: st.DataObject) -> bytes:
    name = st.binary(min_size=4, max_size=4) | st.sampled_from(
        [b"VP8 ", b"VP8X", b"ICCP", b"EXIF", b"ALPH"]
    )
    parts = noise.draw(st.lists(st.builds(webp_chunk, name, st.binary(max_size=40)), max_size=6))
    return riff(STILL_WEBP[12:], *parts)


def mutated(noise: st.DataObject, data: bytes) -> bytes:
    """Replace some parts of ``data`` with random bytes."""
    result = bytearray(data)
    for _ in range(noise.draw(st.integers(0, 4))):
        place = noise.draw(st.integers(0, len(result)))
        length = noise.draw(st.integers(0, 12))
        result[place : place + length] = noise.draw(st.binary(max_size=12))
    return bytes(result)


def decoded(data: bytes) -> list[bytes] | None:
    with suppress(Exception):  # whatever Pillow raises on damage, there is no image
        return pixels(data)
    return None


def check_rewriting(data: bytes) -> bytes:
    """Check that stripping raises an ``InputError`` or keeps the pixels.

    Return the stripped file, or empty bytes if *data* cannot be stripped or decoded.
    """
    try:
        clean = strip_metadata(data)
    except InputError:
        return b""
    assert len(clean) <= len(data) + 40
    assert strip_metadata(clean) == clean
    before = decoded(data)
    assert before is None or decoded(clean) == before
    return clean if before else b""


SLOW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


@quiet
@pytest.mark.parametrize("soup", [jpeg_soup, png_soup, webp_soup])
@SLOW
@given(st.data())
def test_any_mix_of_parts_is_refused_or_stripped_without_loss(
    soup: Callable[[st.DataObject], bytes], noise: st.DataObject
) -> None:
    clean = check_rewriting(soup(noise))
    assert not any(sentinel in clean for sentinel in SENTINELS)


@quiet
@planted
@SLOW
@given(st.data())
def test_any_damage_is_refused_or_stripped_without_loss(data: bytes, noise: st.DataObject) -> None:
    check_rewriting(mutated(noise, data))


@planted
@SLOW
@given(st.data())
def test_reading_damaged_metadata_never_fails(data: bytes, noise: st.DataObject) -> None:
    metadata = read_metadata(data[:16] + mutated(noise, data[16:]))
    assert metadata.orientation in ORIENTATIONS
