"""The container of AVIF and HEIC, with either coding in it."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab

import imageprocessor as ip
from imageprocessor.core.color.spaces import list_declared_colors, list_profiles
from imageprocessor.core.decode import unpack
from imageprocessor.core.formats import avif, heic
from imageprocessor.core.formats.items import ItemData
from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.metadata import read_metadata
from imageprocessor.errors import InputError
from tests.heif import (
    BRANDS,
    KINDS,
    LIMITS,
    Item,
    alpha_of,
    box,
    clap,
    coded,
    each_kind,
    exif_item,
    full_box,
    grid,
    heif,
    ispe,
    nclx,
    tile,
    xmp_item,
)
from tests.images import SENTINELS, encode, photo, planted_exif, planted_xmp

EXACT = [ip.VariantSpec("exact", quality=100, effort=0)]
PRIVATE = b"PRIVATE"
[P3] = list_profiles(list_declared_colors({b"cICP": b"\x0c\x0d\0\1"}, None, b""), "RGB")
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 60), (40, 90, 160), (120, 200, 90))
C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def decode(data: bytes) -> Image.Image:
    result = ip.process(data, EXACT, LIMITS)
    with Image.open(BytesIO(result.variants["exact"].data)) as image:
        image.load()
        return image


def difference(image: Image.Image, wanted: Image.Image) -> float:
    """Return the mean difference of the levels, apart from noise."""
    small = [np.asarray(each.convert("RGB").reduce(8), float) for each in (image, wanted)]
    return float(abs(small[0] - small[1]).mean())


@each_kind
@pytest.mark.parametrize("in_meta", [False, True])
def test_an_image_is_read(kind: str, in_meta: bool) -> None:
    data = heif(kind, tile(kind), in_meta=in_meta)
    mime_type = FORMATS[kind].mime_type
    assert ip.validate(data, LIMITS) == ip.ImageInfo(kind, mime_type, 64, 64, 1)
    assert difference(decode(data), photo(64, 64)) < 5


@each_kind
def test_a_file_of_its_own_encoder_is_read_at_an_odd_size(kind: str) -> None:
    source = photo(41, 31)
    tile(kind)  # registers the encoder
    data = encode(source, kind)
    assert ip.validate(data, LIMITS) == ip.ImageInfo(kind, FORMATS[kind].mime_type, 41, 31, 1)
    assert difference(decode(data), source) < 5


@each_kind
@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_rotation_and_mirroring_are_applied_and_exif_is_not(
    kind: str, quarters: int, axis: int | None
) -> None:
    source = photo(64, 64).crop((0, 0, 40, 64))
    boxes = [box(b"irot", bytes((quarters,)))]
    wanted = source.rotate(90 * quarters, expand=True)
    if axis is not None:
        boxes.append(box(b"imir", bytes((axis,))))
        flips = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)
        wanted = wanted.transpose(flips[axis])
    image = tile(kind)
    image = image.with_property(clap(40, 64, 0, 0, image), *boxes)
    data = heif(kind, image, exif_item(planted_exif(3)))
    assert ip.validate(data, LIMITS).width == 40
    found = decode(data)
    assert found.size == wanted.size
    assert difference(found, wanted) < 5


@each_kind
def test_a_mirrored_image_is_turned_the_other_way(kind: str) -> None:
    boxes = (box(b"imir", b"\1"), box(b"irot", b"\1"))
    data = heif(kind, tile(kind).with_property(*boxes))
    wanted = photo(64, 64).transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90)
    assert difference(decode(data), wanted) < 5


@each_kind
def test_an_image_is_cropped_as_it_declares(kind: str) -> None:
    image = tile(kind)
    data = heif(kind, image.with_property(clap(40, 24, 8, 32, image)))
    info = ip.validate(data, LIMITS)
    assert (info.width, info.height) == (40, 24)
    assert difference(decode(data), photo(64, 64).crop((8, 32, 48, 56))) < 5


@each_kind
def test_a_grid_is_put_together(kind: str) -> None:
    source = photo(120, 64)
    tiles = [coded(source.crop((x, 0, x + 64, 64)), kind) for x in (0, 64)]
    data = heif(kind, grid([2, 3], 2, 120, 64), *tiles)
    assert ip.validate(data, LIMITS).width == 120
    assert difference(decode(data), source) < 5


@each_kind
@pytest.mark.parametrize("in_grid", [False, True])
def test_transparency_is_kept(kind: str, in_grid: bool) -> None:
    image = tile(kind)
    gradient = Image.linear_gradient("L").resize((64, 64))
    items = [image, alpha_of(1, coded(gradient, kind), kind)]
    if in_grid:
        items = [grid([2], 1, 64, 64), image, alpha_of(2, coded(gradient, kind), kind)]
    found = decode(heif(kind, *items))
    assert found.mode == "RGBA"
    assert difference(found.getchannel("A"), gradient) < 5


@each_kind
def test_frames_and_duration_of_a_sequence_are_read(kind: str) -> None:
    times = struct.pack(">IIIII", 2, 2, 40, 1, 120)
    header = struct.pack(">IIIII", 0, 0, 1000, 200, 0)
    handler = bytes(4) + b"pict" + bytes(13)
    table = box(b"minf", box(b"stbl", full_box(b"stts", times)))
    media = box(b"mdia", full_box(b"mdhd", header), full_box(b"hdlr", handler), table)
    data = heif(kind, tile(kind), more=box(b"moov", box(b"trak", media)))
    info = ip.validate(data, LIMITS)
    assert (info.frames, info.duration) == (3, 0.2)
    assert ip.process(data, EXACT, LIMITS).warnings == ("animation_flattened",)


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
def test_an_animated_avif_of_pillow_is_read() -> None:
    first, *others = [photo(64, 48, seed) for seed in range(3)]
    options = {"save_all": True, "append_images": others, "duration": [40, 50, 60], "speed": 10}
    data = encode(first, "AVIF", **options)
    assert data[8:12] == b"avis"
    info = ip.validate(data, LIMITS)
    assert (info.frames, info.duration) == (3, 0.15)
    assert difference(decode(data), first) < 5


@each_kind
@pytest.mark.parametrize("declared", ["nclx", "profile", "profile and nclx"])
def test_colours_of_another_space_are_converted(kind: str, declared: str) -> None:
    wide = Image.new("RGB", (32 * len(COLORS), 64))
    for index, color in enumerate(COLORS):
        wide.paste(color, (32 * index, 0, 32 * index + 32, 64))
    image = coded(wide, kind)
    boxes = {
        "nclx": [nclx(12, 13)],
        "profile": [box(b"colr", b"prof", P3)],
        "profile and nclx": [nclx(1, 13), box(b"colr", b"prof", P3)],
    }[declared]
    image = replace(image, properties=(*image.without(b"colr").properties, *boxes))
    data = heif(kind, image)
    result = ip.process(data, EXACT, LIMITS)
    assert result.removed == (("icc",) if "profile" in declared else ())
    source = ImageCms.ImageCmsProfile(BytesIO(P3))
    srgb = ImageCms.createProfile("sRGB")
    wanted = ImageCms.profileToProfile(wide, source, srgb)
    assert wanted is not None
    patches = []
    for each in (decode(data).convert("RGB"), wanted):
        squares = [each.crop((32 * n + 8, 24, 32 * n + 24, 40)) for n in range(len(COLORS))]
        patches.append([np.asarray(square, float).mean((0, 1)) / 255 for square in squares])
    found, expected = map(rgb2lab, patches)
    delta_e: Any = deltaE_ciede2000  # it has no types
    assert delta_e(found, expected).max() < 2


@each_kind
@pytest.mark.parametrize("transfer", [16, 18])
def test_a_high_dynamic_range_is_flattened_with_a_warning(kind: str, transfer: int) -> None:
    data = heif(kind, tile(kind).with_property(nclx(9, transfer)))
    assert ip.process(data, EXACT, LIMITS).warnings == ("hdr_flattened",)


@each_kind
def test_metadata_is_named_and_in_no_output(kind: str) -> None:
    image = tile(kind)
    private = Item(b"mime", PRIVATE, content_type=b"application/octet-stream")
    items = [
        image,
        exif_item(planted_exif(6)),
        xmp_item(planted_xmp("hdrgm:")),
        replace(tile(kind, 1), references={b"thmb": [1]}),
        private,
    ]
    more = box(b"uuid", C2PA, PRIVATE) + box(b"free", PRIVATE)
    data = heif(kind, *items, more=more) + PRIVATE
    wanted = ("c2pa", "exif", "gain_map", "gps", "other", "thumbnail", "trailer", "xmp")
    assert tuple(sorted(read_metadata(data).kinds)) == wanted
    result = ip.process(data, EXACT, LIMITS)
    assert result.removed == wanted
    assert result.warnings == ("hdr_gain_map_dropped",)
    written = result.variants["exact"].data
    assert [mark for mark in [*SENTINELS, PRIVATE] if mark in written] == []
    metadata = read_metadata(data)
    assert metadata.orientation == 1
    assert metadata.camera == "Acme PRIVATE-model-7f3a91"
    assert metadata.gps == (-33.8599722, 151.2111111)


@each_kind
def test_broken_metadata_does_not_stop_an_image(kind: str) -> None:
    for exif in (b"", b"\xff" * 9, b"\0\xff\xff\xff" + bytes(40)):
        item = Item(b"Exif", exif, (), {b"cdsc": [1]})
        assert ip.process(heif(kind, tile(kind), item), EXACT, LIMITS).removed == ("exif",)


@each_kind
def test_stripping_is_refused(kind: str) -> None:
    with pytest.raises(
        ip.StripUnsupportedError, match=f"{kind} files.*Process it instead"
    ) as error:
        ip.strip_metadata(heif(kind, tile(kind)), LIMITS)
    assert error.value.code == "strip_unsupported"


def larger(kind: str) -> Item:
    """Return an image of 128 x 128 pixels that declares 64 x 64."""
    return coded(photo(128, 128), kind).with_property(ispe(64, 64))


def smaller(kind: str) -> Item:
    return tile(kind).with_property(ispe(128, 128))


@each_kind
@pytest.mark.parametrize("make", [larger, smaller])
def test_a_size_that_lies_is_refused_before_decoding(
    kind: str, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    image = make(kind)
    monkeypatch.setattr("imageprocessor.core.decode.decode", None)
    files = [
        heif(kind, image),
        heif(kind, grid([2], 1, 64, 64), image),
        heif(kind, tile(kind), alpha_of(1, image, kind)),
    ]
    for data in files:
        with pytest.raises(ip.InvalidImageError, match=r"pixels|size"):
            ip.process(data, EXACT, LIMITS)


@each_kind
def test_more_pixels_than_allowed_are_refused_by_the_header(kind: str) -> None:
    image = tile(kind)
    files = [
        heif(kind, image.with_property(ispe(10_000, 10_000))),
        heif(kind, grid([2] * 4, 2, 10_000, 10_000), image.with_property(ispe(5000, 5000))),
    ]
    cropped = image.with_property(ispe(10_000, 10_000))
    files.append(heif(kind, cropped.with_property(clap(8, 8, 0, 0, cropped))))
    for data in files:
        with pytest.raises(ip.TooManyPixelsError):
            ip.validate(data, LIMITS)
    with pytest.raises(ip.DimensionTooLargeError):
        ip.validate(heif(kind, image.with_property(ispe(70_000, 1))), LIMITS)


def list_wrong_files(kind: str) -> dict[str, bytes]:
    image = tile(kind)
    config = next(prop for prop in image.properties if prop[4:8] in {b"av1C", b"hvcC"})
    wrong_clap = box(b"clap", struct.pack(">IIIIiIiI", 64, 1, 64, 1, 1, 2, 0, 1))
    no_denominator = box(b"clap", bytes(32))
    grid_of_two = grid([2, 2], 2, 128, 64)
    return {
        "no main image": heif(kind, image, primary=9),
        "main image that is metadata": heif(kind, image, exif_item(b""), primary=2),
        "another coding": heif(kind, replace(image, kind=b"jpeg")),
        "derived image": heif(kind, Item(b"iden", b"", image.properties, {b"dimg": [2]}), image),
        "no size": heif(kind, image.without(b"ispe")),
        "no pixels": heif(kind, image.with_property(ispe(0, 64))),
        "no configuration": heif(kind, image.without(config[4:8])),
        "short configuration": heif(kind, image.with_property(box(config[4:8], b"\1"))),
        "no data": heif(kind, replace(image, data=b"")),
        "other data": heif(kind, replace(image, data=b"\xff" * 99)),
        "crop outside": heif(kind, image.with_property(wrong_clap)),
        "crop without a size": heif(kind, image.with_property(no_denominator)),
        "crop of a turned image": heif(
            kind, replace(image, properties=(box(b"irot", b"\1"), *image.properties, wrong_clap))
        ),
        "grid of itself": heif(kind, grid([1], 1, 64, 64)),
        "grid of grids": heif(kind, grid([2], 1, 64, 64), grid([3], 1, 64, 64), image),
        "grid without tiles": heif(kind, replace(grid([2], 1, 64, 64), references={}), image),
        "grid with missing tiles": heif(kind, grid_of_two),
        "grid of too few tiles": heif(kind, replace(grid_of_two, references={b"dimg": [2]}), image),
        "grid of tiles that do not cover it": heif(kind, grid([2, 2], 2, 300, 64), image),
        "grid of thousands of tiles": heif(kind, grid([2] * 4000, 80, 64 * 80, 64 * 50), image),
        "grid of tiles that are too large": heif(
            kind, grid([2] * 999, 27, 64, 64), image.with_property(ispe(512, 512))
        ),
        "grid of different tiles": heif(
            kind, grid([2, 3], 2, 128, 64), image, coded(photo(128, 64), kind)
        ),
        "grid of another size than declared": heif(
            kind, grid_of_two.with_property(ispe(100, 64)), image
        ),
        "alpha of another size": heif(kind, image, alpha_of(1, coded(photo(128, 128), kind), kind)),
        "property that is too short": heif(kind, image.with_property(full_box(b"ispe", b"\0"))),
        "property that must be known": heif(kind, image.with_property(box(b"lsel", b"\0\1"))),
        "boxes in boxes instead of items": heif(kind, image, more=nested(3000)).replace(
            b"pitm", b"nope"
        ),
    }


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = box(b"moov", content)
    return content


WRONG = {kind: list_wrong_files(kind) for kind in KINDS}


@each_kind
@pytest.mark.parametrize("name", WRONG[KINDS[0]])
def test_what_does_not_follow_the_format_is_refused(kind: str, name: str) -> None:
    data = WRONG[kind][name]
    with pytest.raises(ip.InputError) as error:
        ip.process(data, EXACT, LIMITS)
    assert error.value.code == "image_invalid"


@each_kind
def test_items_that_share_their_data_are_refused(kind: str) -> None:
    """A small file cannot become a large one for the decoder."""
    image = tile(kind)
    empty = replace(image, data=b"")
    data = bytearray(heif(kind, grid(list(range(2, 102)), 10, 640, 640), image, *[empty] * 99))
    locations = data.index(b"iloc") + 12
    first = data[locations + 16 + 8 : locations + 32]
    for number in range(99):
        start = locations + 16 * (number + 2) + 8
        data[start : start + 8] = first
    with pytest.raises(ip.InvalidImageError, match="share their data"):
        ip.process(bytes(data), EXACT, LIMITS)


@each_kind
def test_a_file_cut_anywhere_is_refused_with_a_code(kind: str) -> None:
    data = heif(kind, grid([3], 1, 64, 64), exif_item(planted_exif(6)), tile(kind))
    places = {data.index(mark) + shift for mark in boxes_in(data) for shift in (-5, -4, 0, 4, 8)}
    for place in sorted(places | {len(data) - 1}):
        with pytest.raises((ip.TruncatedImageError, ip.UnsupportedTypeError, ip.EmptyFileError)):
            ip.process(data[:place], EXACT, LIMITS)


def boxes_in(data: bytes) -> list[bytes]:
    names = (b"meta", b"hdlr", b"pitm", b"iinf", b"infe", b"iloc", b"iref", b"iprp", b"ipco")
    more = (b"ipma", b"mdat", b"ispe", b"colr", b"dimg")
    return [name for name in names + more if name in data]


@pytest.mark.parametrize(
    "unit",
    [
        box(b"free"),
        struct.pack(">I4sQ", 1, b"free", 16),
        box(b"uuid", bytes(16)),
        b"\0\0\0\7free",
        b"\xff\xff\xff\xffmdat",
    ],
    ids=["small", "64 bits", "uuid", "too small", "huge"],
)
def test_work_on_two_hostile_megabytes_is_linear(unit: bytes) -> None:
    start = struct.pack(">I", 16) + b"ftypavif" + bytes(4)
    data = start + unit * (2_000_000 // len(unit))
    started = time.process_time()
    with suppress(InputError):
        ip.process(data, EXACT, LIMITS)
    assert time.process_time() - started < 3


def test_tables_that_are_too_long_are_refused_quickly() -> None:
    kind = KINDS[0]
    items = [tile(kind), *[Item(b"Exif", b"x")] * 100]
    many_items = heif(kind, *items, *[Item(b"Exif", b"x")] * 5000)
    # Positions of no bytes each, of which a small table can have millions
    many_positions = bytearray(heif(kind, *items))
    place = many_positions.index(b"iloc") + 8
    table = struct.pack(">HH", 0, 200) + struct.pack(">HHHH", 1, 0, 0, 0xFFFF) * 200
    many_positions[place : place + len(table)] = table
    references = replace(tile(kind), references={b"cdsc": [1] * 60_000, b"dimg": [1] * 60_000})
    started = time.process_time()
    for data in (many_items, bytes(many_positions), heif(kind, references)):
        with pytest.raises(ip.InvalidImageError, match="unlike any real image"):
            ip.validate(data, LIMITS)
    assert time.process_time() - started < 3


@each_kind
def test_a_long_file_is_never_held_in_memory_besides_its_result(kind: str, tmp_path: Path) -> None:
    image = tile(kind)
    padded = replace(image, data=image.data + padding(kind, 8 << 20))
    path = tmp_path / "image"
    path.write_bytes(heif(kind, padded))
    info = ip.validate(path, LIMITS)
    tracemalloc.start()
    with path.open("rb") as file:
        unpacked = unpack(file, info)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(unpacked.image.getvalue()) > 8 << 20
    assert peak_bytes < 1.5 * path.stat().st_size


def padding(kind: str, size: int) -> bytes:
    """Return a part of the coded data that a decoder skips."""
    if kind == "AVIF":
        low_groups = [size >> 7 * group & 0x7F | 0x80 for group in range(3)]
        return b"\x7a" + bytes((*low_groups, size >> 21)) + bytes(size)
    return struct.pack(">IH", size + 2, 38 << 9 | 1) + b"\xff" * size


@settings(max_examples=30)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 700),
    st.binary(max_size=6),
    st.integers(0, 9),
)
def test_any_damage_gives_an_image_or_a_code(
    kind: str, place: int, noise: bytes, dropped: int
) -> None:
    data = heif(kind, grid([2], 1, 64, 64), tile(kind), exif_item(planted_exif(6)))
    damaged = data[:place] + noise + data[place + dropped :]
    read_metadata(data)
    with suppress(InputError):
        info = ip.validate(damaged, LIMITS)
        assert 0 < info.width * info.height <= LIMITS.max_pixels
        result = ip.process(damaged, EXACT, LIMITS)
        assert ip.validate(result.variants["exact"].data).format == "WEBP"


@settings(max_examples=30)
@given(st.binary(max_size=120), st.integers(8, 40))
def test_any_boxes_give_a_code(noise: bytes, size: int) -> None:
    for kind in KINDS:
        head = box(b"ftyp", BRANDS[kind], bytes(4))
        for data in (head + noise, head + struct.pack(">I", size) + b"meta" + noise):
            with pytest.raises(InputError):
                ip.validate(data, LIMITS)


@settings(max_examples=30)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_coded_data_has_sizes_or_is_refused(config: bytes, data: bytes) -> None:
    for read_sizes in (avif.read_sizes, heic.read_sizes):
        with suppress(InputError):
            for width, height in read_sizes(config, ItemData(BytesIO(data), [(0, len(data))])):
                assert width > 0
                assert height > 0


def test_the_parts_of_an_item_are_joined() -> None:
    data = ItemData(BytesIO(b"0123456789"), [(8, 10), (0, 0), (1, 4)])
    assert data.size_bytes == 5
    assert data.read(0, 99) == b"89123"
    assert data.read(1, 2) == b"91"
    assert data.read(3, 9) == b"23"
    assert b"".join(data.blocks()) == b"89123"
