"""What to show in the place of an image until it is loaded."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from PIL import Image

from imageprocessor.core.appearance import thumbhash
from imageprocessor.core.appearance.sample import halve_to
from imageprocessor.core.formats import webp
from imageprocessor.core.formats.encoding import Encoding

MAX_URL_CHARACTERS = 400

_SIDE = 32
_ENCODING = Encoding(quality=20, effort=4)
_URL_PREFIX = "data:image/webp;base64,"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Two small copies of an image, of which a page needs one.

    ``thumbhash`` is a ThumbHash in Base64, of about 30 characters, which needs a decoder.
    ``data_url`` is a URL of at most 400 characters for ``<img>`` or CSS: a WebP file.
    """

    thumbhash: str
    data_url: str


def make_placeholder(sample: Image.Image) -> Placeholder:
    """Return the placeholder of an image from its sample."""
    tiny = halve_to(_SIDE, sample)
    digest = thumbhash.encode(tiny)
    return Placeholder(b64encode(digest).decode(), _make_data_url(tiny))


def _make_data_url(image: Image.Image) -> str:
    """Return the image as a WebP in a URL, smaller if it would be too long otherwise."""
    while True:
        file = webp.encode(image, _ENCODING)
        url = _URL_PREFIX + b64encode(file).decode()
        if len(url) <= MAX_URL_CHARACTERS:
            return url
        image = halve_to(max(image.size) - 1, image)
