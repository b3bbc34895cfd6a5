"""What a stranger finds in what we give out: a byte search for planted marks, and ExifTool's second opinion."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import imageprocessor as ip
from tests.conftest import require_program
from tests.images import SENTINELS, planted_jpeg, planted_png, planted_webp

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
PLANTED = pytest.mark.parametrize("plant", [planted_jpeg, planted_png, planted_webp])
OF_THE_FILE_ITSELF = {"SourceFile", "ExifTool", "File", "RIFF", "Composite"}
KEPT_BY_STRIP = OF_THE_FILE_ITSELF | {"JFIF", "PNG", "ICC_Profile", "Adobe", "APP14"}


def read_tags(data: bytes, tmp_path: Path) -> dict[str, object]:
    """Return ExifTool's tags, named ``Group:Tag``."""
    path = tmp_path / "given-out"
    path.write_bytes(data)
    run = subprocess.run([require_program("exiftool"), "-j", "-G", "-a", "-u", path], capture_output=True, check=True)
    tags: dict[str, object] = json.loads(run.stdout)[0]
    return tags


def groups(tags: dict[str, object]) -> set[str]:
    return {name.partition(":")[0] for name in tags}


@PLANTED
def test_exiftool_sees_what_was_planted(plant: Callable[[], bytes], tmp_path: Path) -> None:
    assert groups(read_tags(plant(), tmp_path)) & {"EXIF", "XMP"}


@PLANTED
def test_no_variant_has_any_metadata(plant: Callable[[], bytes], tmp_path: Path) -> None:
    for variant in ip.process(plant()).variants.values():
        assert not [mark for mark in SENTINELS if mark in variant.data]
        tags = read_tags(variant.data, tmp_path)
        assert groups(tags) <= OF_THE_FILE_ITSELF
        assert "ExifTool:Warning" not in tags


@PLANTED
def test_stripped_file_keeps_orientation_and_profile_only(plant: Callable[[], bytes], tmp_path: Path) -> None:
    clean = ip.strip_metadata(plant())
    assert not [mark for mark in SENTINELS if mark in clean]
    tags = read_tags(clean, tmp_path)
    exif = {name for name in tags if name.startswith("EXIF:")}
    assert exif <= {"EXIF:Orientation"}
    assert groups(tags) <= KEPT_BY_STRIP | {"EXIF"}
    assert "ExifTool:Warning" not in tags


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the photo corpus is not beside this checkout")
@pytest.mark.parametrize("photo", sorted(CORPUS.rglob("*.jpg")), ids=lambda path: path.stem)
def test_no_variant_of_a_real_photo_has_any_metadata(photo: Path, tmp_path: Path) -> None:
    for variant in ip.process(photo, [ip.VariantSpec("card", width=400)]).variants.values():
        assert groups(read_tags(variant.data, tmp_path)) <= OF_THE_FILE_ITSELF
