"""Properties that the readers share."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from imageprocessor.core.decode import unpack
from imageprocessor.core.formats.container import BLOCK_BYTES, Container
from imageprocessor.core.formats.registry import FORMATS, list_installed_mime_types
from imageprocessor.core.limits import Limits
from imageprocessor.core.metadata import read_metadata, strip_metadata
from imageprocessor.core.source import ImageSource
from imageprocessor.core.validate import validate
from imageprocessor.errors import TruncatedImageError
from tests.gifs import frame, gif, planted_gif
from tests.images import (
    encode,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
    png_chunk,
    riff,
    webp_chunk,
)

ANY = Limits(mime_types=frozenset(list_installed_mime_types()))
PIXELS = bytes(8 << 20)
FRAME = webp_chunk(b"ANMF", bytes(16) + webp_chunk(b"VP8 ", PIXELS))
PNG_HEADER = encode(Image.new("L", (2047, 4096)), "PNG")[:33]  # each row has a filter byte, too
LONG = {
    "JPEG": encode(photo(9, 9), "JPEG")[:-2] + PIXELS + b"\xff\xd9",
    "PNG": PNG_HEADER + png_chunk(b"IDAT", zlib.compress(PIXELS, 0)) + png_chunk(b"IEND"),
    "WebP": riff(webp_chunk(b"VP8 ", encode(photo(9, 9), "WEBP")[20:] + PIXELS)),
    "animated WebP": riff(webp_chunk(b"VP8X", b"\2" + bytes(9)), FRAME),
    "GIF": gif((8, 6), frame((8, 6), 0, tail=PIXELS)),
}
PLANTED = {
    "JPEG": planted_jpeg(),
    "PNG": planted_png(),
    "WebP": planted_webp(),
    "GIF": planted_gif(),
}
planted = pytest.mark.parametrize("data", PLANTED.values(), ids=PLANTED.keys())


class Shrinking(BytesIO):
    """A file that is truncated to half its size after a number of reads."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads == -1:
            self.truncate(len(self.getvalue()) // 2)
        return super().read(size)


class Short(BytesIO):
    """A file that never returns more than *at_most* bytes at once."""

    at_most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, self.at_most))


def container_of(data: bytes) -> Container:
    return FORMATS[validate(data, ANY).format].container


def strip(source: ImageSource) -> bytes:
    return strip_metadata(source, ANY)


def unpack_file(path: Path) -> object:
    with path.open("rb") as file:
        return unpack(file, validate(path, ANY))


@pytest.mark.parametrize("kind", LONG)
def test_pixel_data_is_read_in_blocks(kind: str) -> None:
    data = LONG[kind]
    container = container_of(data)
    parts = [piece.clean for piece in container.read_pieces(BytesIO(data))]
    assert max(map(len, parts)) == BLOCK_BYTES
    assert container.join(parts) == data


@pytest.mark.parametrize(
    ("work", "share"), [(strip, 1.5), (unpack_file, 1.5), (read_metadata, 0.1)]
)
@pytest.mark.parametrize("kind", LONG)
def test_a_long_file_is_never_held_in_memory_besides_its_result(
    kind: str, work: Callable[[Path], object], share: float, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(LONG[kind])
    tracemalloc.start()
    work(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < share * len(LONG[kind])


@planted
def test_moving_the_position_between_pieces_changes_nothing(data: bytes) -> None:
    pieces = list(container_of(data).read_pieces(BytesIO(data)))
    file = BytesIO(data)
    for piece, expected in zip(container_of(data).read_pieces(file), pieces, strict=True):
        assert piece == expected
        file.seek(len(data) // 3)


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 9, BLOCK_BYTES, 9 * BLOCK_BYTES - 9])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_gain_map_is_found_anywhere_after_the_image(image_format: str, place: int) -> None:
    data = (
        encode(photo(9, 9), image_format)
        + bytes(place)
        + b"urn:iso:std:iso:ts:21496:-1"
        + bytes(BLOCK_BYTES)
    )
    assert read_metadata(data).kinds == ("trailer", "gain_map")


@planted
def test_a_file_truncated_during_reading_is_rejected(data: bytes) -> None:
    outcomes = []
    for reads in range(200):
        file = Shrinking(data)
        file.reads = reads
        with suppress(TruncatedImageError):
            outcomes.append(strip(file))
    assert 0 < len(outcomes) < 200
    assert set(outcomes) == {strip(data)}


@planted
@pytest.mark.parametrize("at_most", [30, 100, 512, 1000, 4000])
def test_short_reads_give_the_whole_file_or_a_truncated_error(data: bytes, at_most: int) -> None:
    file = Short(data)
    file.at_most = at_most
    with suppress(TruncatedImageError):
        assert strip(file) == strip(data)
