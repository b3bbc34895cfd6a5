"""The Pillow that the tests run on: the version in pyproject.toml, or Pillow-SIMD."""

from __future__ import annotations

import PIL
import pytest

from imageprocessor.core.codecs import pillow_version


def require_pillow(version: tuple[int, int], before: str) -> None:
    """Skip the test if Pillow is older than *version*; *before*: what older versions do."""
    if pillow_version() < version:
        pytest.skip(
            f"Pillow {PIL.__version__} lacks a fix from {'.'.join(map(str, version))}: {before}"
        )
