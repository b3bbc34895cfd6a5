"""How to encode an image, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """The options of an encoder.

    Args:
        quality: 1 to 100.
        effort: 0 (fast) to 6 (small).
    """

    quality: int
    effort: int
