"""Small files of each kind, which the fuzzers start with."""

from __future__ import annotations

from tests.gifs import animated_gif, planted_gif
from tests.heif import KINDS, alpha_of, exif_item, grid, heif, nclx, tile, xmp_item
from tests.images import (
    animated_webp,
    apng,
    encode,
    photo,
    planted_exif,
    planted_jpeg,
    planted_png,
    planted_webp,
    planted_xmp,
    png_bomb,
)


def make_seeds() -> list[bytes]:
    """Return the seeds, generated with the helpers of the tests."""
    small = photo(16, 12)
    return [
        *(encode(small, image_format) for image_format in ("JPEG", "PNG", "WEBP")),
        encode(small, "JPEG", progressive=True),
        encode(small.convert("CMYK"), "JPEG"),
        *(encode(small.convert(mode), "PNG") for mode in ("1", "LA", "P", "RGBA")),
        encode(small.convert("RGBA"), "WEBP", lossless=True),
        apng(2, (8, 6)),
        animated_webp(2, (8, 6)),
        planted_jpeg(small),
        planted_png(small),
        planted_webp(),
        png_bomb(60_000, 60_000),
        encode(small.quantize(9), "GIF", interlace=1),
        animated_gif(2),
        planted_gif(),
        *(file for kind in KINDS for file in make_heifs(kind)),
    ]


def make_heifs(kind: str) -> list[bytes]:
    """Return an image with metadata, a grid, and an image with an alpha channel."""
    image = tile(kind)
    metadata = (exif_item(planted_exif()), xmp_item(planted_xmp()))
    return [
        heif(kind, image.with_property(nclx(12, 13)), *metadata),
        heif(kind, grid([2, 3], 2, 120, 64), image, tile(kind, 1)),
        heif(kind, image, alpha_of(1, tile(kind, 1), kind), in_meta=True),
    ]


def make_operations() -> list[bytes]:
    """Return texts that together have each operation, in its different forms."""
    return [
        b"crop_10p:0p:50.5p:50p,trim_1,rot_90,flip_hv,w_400,h_300,fit_cover,g_30p:50p,q_80",
        b"crop_0:1:20:30,w_400,ar_1.91:1,fit_pad,g_ne,dpr_2.5,up_1,bg_00ff0080,pad_9",
        b"w_9,h_9,fit_cover,g_auto,bri_-10,con_20.125,sat_-100,gray_1,sepia_1",
        b"blur_2.5,sharp_30,pix_8,wm_logo:se:80:25,r_max",
        b"w_9,h_9,fit_fill,r_12",
    ]
