"""Encoding images as the requested variants, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from PIL import Image

from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import OUTPUT_FORMATS
from imageprocessor.core.memory import THREAD_BYTES, require_memory
from imageprocessor.core.variants import Variant, VariantSpec


class Encoders:
    """Encodes images in *threads* threads while the caller prepares the next image.

    With one thread, the calling thread encodes each image immediately. Leaving the context waits
    until all images are encoded.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._futures: list[Future[dict[str, Variant]]] = []
        self._variants: dict[str, Variant] = {}

    def __enter__(self) -> Encoders:
        return self

    def submit(
        self, image: Image.Image, specs: Sequence[VariantSpec], stripped: bytes | None = None
    ) -> None:
        """Encode *image*, now or later, as each of *specs*, all of which have its size.

        *stripped*: see :func:`encode_variants`.
        """
        self.run(partial(encode_variants, image, specs, stripped))

    def run(self, encode: Callable[[], dict[str, Variant]]) -> None:
        """Call *encode*, now or later, which returns variants by name."""
        if self._pool is None:
            self._variants |= encode()
            return
        require_memory(THREAD_BYTES, "for a thread")
        self._futures.append(self._pool.submit(encode))

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def collect(self) -> dict[str, Variant]:
        """Return the results by name, or raise the first exception."""
        for future in self._futures:
            self._variants |= future.result()
        return self._variants


def encode_variants(
    image: Image.Image, specs: Sequence[VariantSpec], stripped: bytes | None = None
) -> dict[str, Variant]:
    """Return the variants of *image* by name, encoding once per format, quality and effort.

    *stripped*: a JPEG that shows exactly this. It is used where no quality is requested.
    """
    made: dict[tuple[str, Encoding], Variant] = {}
    variants = {}
    for spec in specs:
        files = []
        for output in spec.files.values():
            if output == "jpeg" and stripped and spec.quality is None:
                files.append(Variant(stripped, image.width, image.height, output))
                continue
            encoding = Encoding(spec.quality_for(output), spec.effort_for(image.width))
            if (output, encoding) not in made:
                data = encode(image, output, encoding)
                made[output, encoding] = Variant(data, image.width, image.height, output)
            files.append(made[output, encoding])
        first, *alternates = files
        variants[spec.name] = replace(first, alternates=tuple(alternates))
    return variants


def encode(image: Image.Image, output: str, encoding: Encoding) -> bytes:
    """Return *image* as a file of the format *output*."""
    encoder = OUTPUT_FORMATS[output].encode
    assert encoder is not None
    return encoder(image, encoding)
