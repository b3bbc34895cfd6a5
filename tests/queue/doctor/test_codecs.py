from __future__ import annotations

from pathlib import Path

import PIL
import pytest

from imageprocessor.core.formats import ImageFormat
from imageprocessor.queue.doctor.codecs import check_codecs, check_version
from imageprocessor.queue.doctor.finding import Finding, Verdict

OK, WARNING, WRONG = Verdict
SIMD = "Pillow_SIMD-12.1.1.post0.dist-info"


def by_name() -> dict[str, Finding]:
    return {finding.name: finding for finding in check_codecs()}


def install_beside(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = SIMD) -> None:
    """Let a second distribution claim the folder PIL/, as pip lets it."""
    (folder / name).mkdir()
    (folder / name / "METADATA").write_text("Metadata-Version: 2.1\nName: Pillow-SIMD\nVersion: 12.1.1.post0\n")
    (folder / name / "top_level.txt").write_text("PIL\n")
    monkeypatch.syspath_prepend(str(folder))


def test_codecs_are_well() -> None:
    found = by_name()
    assert {finding.verdict for finding in found.values()} == {OK}
    assert f"Pillow {PIL.__version__}, libjpeg" in found["codec versions"].found
    assert "libwebp" in found["codec versions"].found


def test_two_distributions_in_one_folder_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_beside(tmp_path, monkeypatch)
    found = by_name()["codec packages"]
    assert found.verdict is WRONG
    assert "pillow and pillow-simd lie in the same folder" in found.found
    assert found.fix.startswith("pip uninstall -y pillow pillow-simd")


def test_decoders_without_the_security_fixes_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL, "__version__", "12.2.0")
    found = by_name()["codec versions"]
    assert found.verdict is WRONG
    assert "security fixes" in found.found


@pytest.mark.parametrize(
    ("version", "simd", "verdict"),
    [((12, 3), False, OK), ((13, 0), True, OK), ((12, 1), True, WARNING), ((12, 1), False, WRONG)],
)
def test_pillow_simd_is_a_choice_with_a_warning(version: tuple[int, ...], simd: bool, verdict: Verdict) -> None:
    assert check_version("Pillow", version, simd=simd).verdict is verdict


@pytest.mark.parametrize(
    ("codec", "formats"),
    [("_imaging.jpeg_decoder", {"JPEG"}), ("_imaging.zip_decoder", {"PNG"}), ("_webp.WebPEncode", {*ImageFormat})],
)
def test_codec_that_is_missing_is_wrong(codec: str, formats: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"PIL.{codec}")
    broken = {name.removeprefix("codec ") for name, finding in by_name().items() if finding.verdict is WRONG}
    assert broken == formats
