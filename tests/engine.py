"""The Pillow that the tests run on: the one that pyproject.toml demands, or Pillow-SIMD."""

from __future__ import annotations

import PIL
import pytest

from imageprocessor.core.codecs import pillow_version


def require_pillow(version: tuple[int, int], before: str) -> None:
    """Skip the test where Pillow is older than *version*, because of what it did *before*."""
    if pillow_version() < version:
        pytest.skip(
            f"Pillow {PIL.__version__} lacks what {'.'.join(map(str, version))} mended: {before}"
        )
