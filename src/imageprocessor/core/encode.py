"""Encoding images as the requested variants, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from imageprocessor.core.formats.registry import OUTPUT_FORMAT
from imageprocessor.core.memory import THREAD_BYTES, require_memory
from imageprocessor.core.quality import SourceFile, encode_best, may_become_lossless
from imageprocessor.core.variants import Variant, VariantSpec

_Variants = dict[str, Variant]


class Encoders:
    """Encodes images of *source* in *threads* threads while the caller prepares the next image.

    With one thread, the calling thread encodes each image immediately. Leaving the context waits
    until all images are encoded.
    """

    def __init__(self, threads: int, source: SourceFile) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._source = source
        self._results: list[Callable[[], _Variants]] = []
        self._largest: Callable[[], _Variants] | None = None

    def __enter__(self) -> Encoders:
        return self

    def submit(self, image: Image.Image, specs: Sequence[VariantSpec]) -> None:
        """Encode *image*, now or later, as each of *specs*, all of which have its size."""
        arguments = (image, specs, self._source, self._largest)
        if self._pool is None:
            variants = encode_variants(*arguments)
            self._results.append(lambda: variants)
        else:
            require_memory(THREAD_BYTES, "for a thread")
            self._results.append(self._pool.submit(encode_variants, *arguments).result)
        if self._largest is None and any(
            spec.is_plain and may_become_lossless(image, spec, self._source) for spec in specs
        ):
            self._largest = self._results[-1]

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def collect(self) -> _Variants:
        """Return the results by name, or raise the first exception."""
        variants: _Variants = {}
        for result in self._results:
            variants |= result()
        return variants


def encode_variants(
    image: Image.Image,
    specs: Sequence[VariantSpec],
    source: SourceFile,
    largest: Callable[[], _Variants] | None = None,
) -> _Variants:
    """Return the variants of *image* by name, encoding once per set of equal options.

    *largest* returns the variants of the largest size that may become lossless, perhaps after
    waiting for them; None if there is none, or this is that size.
    """

    def is_largest_lossless() -> bool:
        assert largest is not None
        return any(OUTPUT_FORMAT.read_coding(each.data).is_lossless for each in largest().values())

    encoded: dict[object, Variant] = {}
    variants = {}
    for spec in specs:
        options = (spec.quality, spec.effort, spec.lossless, spec.max_bytes)
        if options not in encoded:
            data = encode_best(image, OUTPUT_FORMAT, spec, source, largest and is_largest_lossless)
            encoded[options] = Variant(data, image.width, image.height)
        variants[spec.name] = encoded[options]
    return variants
