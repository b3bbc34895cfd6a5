"""How to encode an image, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """The options of an encoder.

    Args:
        quality: 1 to 100; without effect if *lossless*.
        effort: 0 (fast) to 6 (small).
        lossless: keep every pixel as it is, where the format leaves the choice.
    """

    quality: int
    effort: int
    lossless: bool = False
