"""Encoding images as the requested variants, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from PIL import Image

from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import OUTPUT_FORMAT
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

    def submit(self, image: Image.Image, specs: Sequence[VariantSpec]) -> None:
        """Encode *image*, now or later, as each of *specs*, all of which have its size."""
        self.run(partial(encode_variants, image, specs))

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


def encode_variants(image: Image.Image, specs: Sequence[VariantSpec]) -> dict[str, Variant]:
    """Return the variants of *image* by name, encoding once per quality and effort."""
    encode = OUTPUT_FORMAT.encode
    assert encode is not None
    encoded: dict[Encoding, Variant] = {}
    variants = {}
    for spec in specs:
        encoding = Encoding(spec.quality, spec.effort_for(image.width))
        if encoding not in encoded:
            data = encode(image, encoding)
            encoded[encoding] = Variant(data, image.width, image.height)
        variants[spec.name] = encoded[encoding]
    return variants
