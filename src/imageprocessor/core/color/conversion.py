"""Conversion of decoded images to 8-bit sRGB."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from itertools import product

from PIL import Image, ImageChops, ImageCms

MAX_PROFILE_BYTES = 8 * 1024 * 1024
"""Longer profiles are ignored; the largest published printer profiles have about 3 MB."""

_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
"""The colour space that a profile must have, by Pillow's mode."""


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the image as 8-bit sRGB with an empty ``info``, and warnings.

    *image* has mode L, LA, RGB, RGBA or CMYK, and its profiles in ``image.info["profiles"]``, of
    which the first usable one counts. The result has mode RGB, or RGBA if some pixel is not opaque.
    Do not use *image* afterwards: its pixels may be changed in place, because copying a large image
    costs hundreds of megabytes.

    A profile that is broken, is for another colour space, or is longer than 8 MiB is ignored with
    the warning ``"icc_invalid"``. CMYK without a usable profile is converted as
    ``(255 - ink) * (255 - black) / 255``.

    The rendering intent is perceptual, without black point compensation, because the result lies
    between those of other colour-managed programs. Measured with LittleCMS 2.19 and ImageMagick 6.9
    on 16 384 colours of a SWOP CMYK profile, the mean dE2000 is 1.5 from relative colorimetric, 1.1
    from relative colorimetric with black point compensation, and 1.4 and 0.3 from ImageMagick
    without and with it. Every other choice differs by 2.5 or more from at least one of them. For
    profiles made of a matrix and curves, such as Display P3 and Adobe RGB, all agree within 0.25.
    """
    warnings: tuple[str, ...] = ()
    for profile in image.info.get("profiles", ()):
        try:
            image = _apply_profile(image, profile)
            break
        except (OSError, TypeError, ValueError):
            warnings = ("icc_invalid",)
    mode = "RGBA" if is_translucent(image) else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    image.info = {}
    return image, warnings


def is_translucent(image: Image.Image) -> bool:
    """Return whether some pixel is not opaque."""
    if image.mode not in ("LA", "RGBA"):
        return False
    return image.getchannel("A").getextrema() != (255, 255)


def is_usable(profile: bytes, mode: str) -> bool:
    """Return whether ``to_srgb`` can apply the profile to an image of *mode*."""
    try:
        _transform_to_srgb(profile, mode.removesuffix("A"))
    except (OSError, TypeError, ValueError):
        return False
    return True


def is_srgb(image: Image.Image) -> bool:
    """Return whether ``to_srgb`` would change no colour of an image by more than one level."""
    if image.mode == "CMYK":
        return False
    mode = image.mode.removesuffix("A")
    for profile in image.info.get("profiles", ()):
        with suppress(OSError, TypeError, ValueError):
            return _changes_nothing(_transform_to_srgb(profile, mode), mode)
    return True


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image converted from *profile* to sRGB, in place if its mode stays the same.

    Raises:
        ValueError, OSError: The profile is unusable.
    """
    if image.mode == "LA":
        gray, alpha = image.split()
        image = _apply_profile(gray, profile).convert("RGB")
        image.putalpha(alpha)
        return image
    transform = _transform_to_srgb(profile, image.mode)
    if image.mode == "L":
        return _apply_to_gray(image, transform)
    if image.mode != "CMYK" and _changes_nothing(transform, image.mode):
        return image
    target = image if image.mode == transform.output_mode else None
    return transform.apply(image, target)


def _apply_to_gray(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Return an image of mode L converted level by level, which is exact and fast."""
    if _changes_nothing(transform, "L"):
        return image
    converted = transform.apply(_probe_colors("L"))
    channels = [image.point(list(band.tobytes())) for band in converted.split()]
    return Image.merge("RGB", channels)


@lru_cache(maxsize=2)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the transform from *profile* to sRGB for pixels of *mode*.

    To make one takes 5 ms, ten times as long as drawing a small frame of an animation. Its frames
    have two modes at most.

    Raises:
        ValueError: The profile is missing, too long, or for another colour space.
        OSError: The profile is broken.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        raise ValueError("the colour profile is missing, truncated or too long")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
        raise ValueError("the colour profile is for another colour space")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    output_mode = "RGBA" if mode == "RGBA" else "RGB"
    # For gray, LittleCMS would optimise the curve to a few samples, 10 levels off in the dark.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.ImageCmsTransform(
        source, srgb, mode, output_mode, ImageCms.Intent.PERCEPTUAL, flags=flags
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether the profile is effectively sRGB: no colour changes by more than one level."""
    probe = _probe_colors(mode)
    converted = transform.apply(probe)
    unchanged = probe.convert(transform.output_mode)
    difference = ImageChops.difference(converted, unchanged)
    for band in difference.split():
        counts_by_level = band.histogram()
        if any(counts_by_level[2:]):
            return False
    return True


@cache
def _probe_colors(mode: str) -> Image.Image:
    """Return an image of all levels of gray and of each primary, and a grid of 18³ colours.

    The levels reveal different curves, the grid different gamuts.
    """
    levels = bytes(range(256))
    if mode == "L":
        return Image.frombytes("L", (256, 1), levels)
    pixels = bytearray()
    for level in levels:
        pixels += bytes((level, level, level))
        pixels += bytes((level, 0, 0))
        pixels += bytes((0, level, 0))
        pixels += bytes((0, 0, level))
    for color in product(levels[::15], repeat=3):
        pixels += bytes(color)
    row = (len(pixels) // 3, 1)
    probe = Image.frombytes("RGB", row, bytes(pixels))
    return probe.convert(mode)
