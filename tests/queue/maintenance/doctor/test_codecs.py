from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL
import pytest

from imageprocessor.core.codecs import pillow_version
from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.queue.maintenance.doctor.codecs import (
    FIXED_IN,
    check_codecs,
    check_version,
    check_watermarks,
)
from imageprocessor.queue.maintenance.doctor.finding import Finding, Verdict
from imageprocessor.settings import Settings
from tests.heif import KINDS
from tests.images import encode, photo, truncated

OK, WARNING, WRONG = Verdict
FOUND = {"JPEG", "PNG", "WEBP", "GIF", *KINDS}
ACCEPTED = [row.mime_type for name, row in FORMATS.items() if name in FOUND]
needs_avif = pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
DISTRIBUTIONS = {"Pillow_SIMD": "12.1.1.post0", "pillow": "13.0.0"}


def by_name(mime_types: Sequence[str] = ACCEPTED, **values: Any) -> dict[str, Finding]:
    settings = Settings.model_validate({"allowed_mime_types": mime_types, **values})
    return {finding.name: finding for finding in check_codecs(settings)}


def install_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two packages own the folder PIL/, which pip permits."""
    for name, version in DISTRIBUTIONS.items():
        place = folder / f"{name}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
        (place / "top_level.txt").write_text("PIL\n")
    monkeypatch.syspath_prepend(str(folder))


def test_installed_codecs_are_ok() -> None:
    found = by_name()
    assert {name: finding.verdict for name, finding in found.items()} == {
        "codec versions": WARNING if pillow_version() < FIXED_IN else OK,
        "codecs": OK,
    }
    for library in (f"{PIL.__version__}, libjpeg", "libwebp", "LittleCMS"):
        assert library in found["codec versions"].found


def test_only_accepted_formats_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("PIL._imaging.gif_decoder")
    codecs = by_name(["image/jpeg", "image/webp"])["codecs"]
    assert codecs.verdict is OK
    assert codecs.found == "JPEG and WebP are decoded. Encoded: WebP"


def test_a_package_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(FORMATS["HEIC"], decoder="imageprocessor.core.missing:HeicFile", package="")
    monkeypatch.setitem(FORMATS, "HEIC", broken)
    assert by_name(["image/heic"])["codec HEIC"].verdict is WRONG


def test_two_packages_in_one_folder_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_both(tmp_path, monkeypatch)
    found = by_name()["codec packages"]
    assert found.verdict is WRONG
    assert "pillow and pillow-simd share the folder PIL/" in found.found
    assert found.fix.startswith("pip uninstall -y pillow pillow-simd")


@pytest.mark.parametrize(
    ("version", "engine"), [("12.1.1.post0", "Pillow-SIMD"), ("13.0.0", "Pillow")]
)
def test_running_engine_is_named(
    version: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_both(tmp_path, monkeypatch)
    monkeypatch.setattr(PIL, "__version__", version)
    assert by_name()["codec versions"].found.startswith(f"{engine} {version}, libjpeg")


def test_decoders_without_the_security_fixes_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL, "__version__", "12.2.0")
    found = by_name()["codec versions"]
    assert found.verdict is WRONG
    assert "security fixes" in found.found


@pytest.mark.parametrize(
    ("version", "engine", "verdict"),
    [
        ((13, 0), "Pillow", OK),
        ((12, 3), "Pillow", WRONG),
        ((13, 0), "Pillow-SIMD", OK),
        ((12, 1), "Pillow-SIMD", WARNING),
        ((12, 1), "Pillow", WRONG),
    ],
)
def test_old_pillow_is_wrong_and_old_pillow_simd_a_warning(
    version: tuple[int, ...], engine: str, verdict: Verdict
) -> None:
    assert check_version({engine: "12"}, version).verdict is verdict


@pytest.mark.parametrize(
    ("codec", "formats"),
    [
        ("_imaging.jpeg_decoder", {"JPEG"}),
        ("_imaging.zip_decoder", {"PNG"}),
        ("_imaging.gif_decoder", {"GIF"}),
        pytest.param("_avif.AvifDecoder", {"AVIF"}, marks=needs_avif),
        ("_webp.WebPEncode", FOUND),
    ],
)
def test_missing_codec_is_wrong(
    codec: str, formats: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"PIL.{codec}")
    broken = {
        name.removeprefix("codec ")
        for name, finding in by_name().items()
        if finding.verdict is WRONG
    }
    assert broken == formats


def test_formats_that_sizes_use_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"card": {"width": 40, "formats": ["avif", "png"]}}
    accepted = ["image/jpeg", "image/png", "image/webp"]
    found = by_name(accepted, image_sizes=sizes)["codecs"].found
    assert found == "JPEG, PNG and WebP are decoded. Encoded: AVIF, PNG"
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    broken = by_name(accepted, image_sizes=sizes)["codec AVIF"]
    assert (broken.verdict, "cannot encode AVIF" in broken.found) == (WRONG, True)
    assert "codec AVIF" not in by_name(accepted)


def test_each_watermark_that_a_size_names_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encode(photo(40, 20), "PNG"))
    (tmp_path / "cut.png").write_bytes(truncated(encode(photo(40, 20), "PNG"), 0.5))
    (tmp_path / "unused.png").write_bytes(b"")
    sizes = {
        "a": {"width": 9, "watermark": "good:se:80:25"},
        "b": {"width": 9, "watermark": "cut:se:80:25"},
        "c": {"width": 9},
    }
    values = {"image_sizes": sizes, "watermarks_dir": tmp_path}
    cut, good = check_watermarks(Settings.model_validate(values))
    assert (cut.name, cut.verdict, good.name, good.verdict) == (
        "watermark cut",
        WRONG,
        "watermark good",
        OK,
    )
    assert good.found == f"{tmp_path / 'good.png'}, 40×20 pixels"
    assert str(tmp_path / "cut.png") in cut.found
