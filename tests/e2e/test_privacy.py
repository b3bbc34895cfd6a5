"""Search all output for planted metadata, and check it with ExifTool as well."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import imageprocessor as ip
from tests.conftest import require_program
from tests.images import (
    PRIVATE_PROFILE,
    SENTINELS,
    each_photograph,
    encode,
    needs_photographs,
    photo,
    planted_jpeg,
    planted_png,
    planted_webp,
)

PLANTED = pytest.mark.parametrize("plant", [planted_jpeg, planted_png, planted_webp])
FILE_GROUPS = {"SourceFile", "ExifTool", "File", "RIFF", "Composite"}
KEPT_BY_STRIP = FILE_GROUPS | {"JFIF", "PNG", "ICC_Profile", "Adobe", "APP14"}
PRIVATE_TEXTS = [*SENTINELS, "PRIVATE-descr".encode("utf-16-be")]
KINDS = {
    "EXIF": "exif",
    "XMP": "xmp",
    "IPTC": "iptc",
    "Photoshop": "iptc",
    "ICC_Profile": "icc",
    "MPF": "mpf",
    "JUMBF": "c2pa",
}
"""ExifTool's name of a metadata group, and ours."""

Tags = dict[str, Any]


def read_tags(folder: Path, *files: bytes) -> list[Tags]:
    """Return ExifTool's tags of each file, named ``Group:Tag``."""
    paths = [folder / f"output-{number}" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    command = [require_program("exiftool"), "-j", "-G", "-a", "-u", *map(str, paths)]
    run = subprocess.run(command, capture_output=True, check=True)
    tags: list[Tags] = json.loads(run.stdout)
    return tags


def groups(tags: Tags) -> set[str]:
    return {name.partition(":")[0] for name in tags}


def check_bare(folder: Path, image: ip.ProcessedImage, private: list[bytes]) -> None:
    """Check that no variant has metadata or any of the *private* texts."""
    files = [variant.data for variant in image.variants.values()]
    assert [text for text in private if any(text in data for data in files)] == []
    for tags in read_tags(folder, *files):
        assert groups(tags) <= FILE_GROUPS
        assert "ExifTool:Warning" not in tags


@PLANTED
def test_exiftool_finds_the_planted_metadata(plant: Callable[[], bytes], tmp_path: Path) -> None:
    [tags] = read_tags(tmp_path, plant())
    assert groups(tags) & {"EXIF", "XMP"}


@PLANTED
def test_no_variant_has_any_metadata(plant: Callable[..., bytes], tmp_path: Path) -> None:
    source = plant(profile=PRIVATE_PROFILE)
    assert sum(text in source for text in SENTINELS) >= 9
    check_bare(tmp_path, ip.process(source), PRIVATE_TEXTS)


@pytest.mark.parametrize(
    ("plant", "removed"),
    [
        (planted_jpeg, "c2pa comment exif gain_map gps icc iptc mpf other thumbnail trailer xmp"),
        (planted_png, "c2pa comment exif gps icc iptc other thumbnail time trailer xmp"),
        (planted_webp, "c2pa exif gps icc other thumbnail trailer xmp"),
        (lambda: encode(photo(9, 9), "JPEG"), ""),
        (lambda: encode(photo(9, 9), "PNG", dpi=(72, 72)), ""),
        (lambda: encode(photo(9, 9), "WEBP"), ""),
    ],
)
def test_removed_lists_exactly_the_planted_metadata(
    plant: Callable[[], bytes], removed: str
) -> None:
    assert ip.process(plant()).removed == tuple(removed.split())


@PLANTED
def test_stripped_file_keeps_orientation_and_profile_only(
    plant: Callable[[], bytes], tmp_path: Path
) -> None:
    clean = ip.strip_metadata(plant())
    assert not [mark for mark in SENTINELS if mark in clean]
    [tags] = read_tags(tmp_path, clean)
    exif = {name for name in tags if name.startswith("EXIF:")}
    assert exif <= {"EXIF:Orientation"}
    assert groups(tags) <= KEPT_BY_STRIP | {"EXIF"}
    assert "ExifTool:Warning" not in tags


@needs_photographs
@each_photograph
def test_no_variant_of_a_real_photo_has_any_metadata(path: Path, tmp_path: Path) -> None:
    [tags] = read_tags(tmp_path, path.read_bytes())
    image = ip.process(path)
    check_bare(tmp_path, image, texts_of(tags))
    found = {KINDS[group] for group in groups(tags) & set(KINDS)}
    assert set(image.removed) & set(KINDS.values()) == found
    assert ("gps" in image.removed) == any(
        name in tags for name in ("EXIF:GPSLatitude", "XMP:GPSLatitude")
    )


def texts_of(tags: Tags) -> list[bytes]:
    """Return metadata texts that are too long to occur in an image by chance."""
    private = {
        name: value for name, value in tags.items() if name.partition(":")[0] not in FILE_GROUPS
    }
    return [
        value.encode() for value in private.values() if isinstance(value, str) and len(value) >= 6
    ]
