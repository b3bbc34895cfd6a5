"""Encoding images as the requested variants, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from PIL import Image

from imageprocessor.core.formats.registry import OUTPUT_FORMATS
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
        self._find_largest: Callable[[], _Variants] | None = None

    def __enter__(self) -> Encoders:
        return self

    def submit(
        self, image: Image.Image, specs: Sequence[VariantSpec], stripped: bytes | None = None
    ) -> None:
        """Encode *image*, now or later, as each of *specs*, all of which have its size.

        *stripped*: see :func:`encode_variants`.
        """
        self.run(partial(encode_variants, image, specs, self._source, stripped, self._find_largest))
        webps = [spec for spec in specs if spec.is_plain and "webp" in spec.files.values()]
        can_tell = any(may_become_lossless(image, spec, self._source) for spec in webps)
        if self._find_largest is None and can_tell:
            self._find_largest = self._results[-1]

    def run(self, encode: Callable[[], _Variants]) -> None:
        """Call *encode*, now or later, which returns variants by name."""
        if self._pool is None:
            variants = encode()
            self._results.append(lambda: variants)
            return
        require_memory(THREAD_BYTES, "for a thread")
        self._results.append(self._pool.submit(encode).result)

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
    stripped: bytes | None = None,
    find_largest: Callable[[], _Variants] | None = None,
) -> _Variants:
    """Return the variants of *image* by name, encoding once per format and equal options.

    *stripped*: a JPEG that shows exactly this. It is used where no quality is requested.
    *find_largest* returns the variants of the largest size that may become lossless, perhaps after
    waiting for them; None if there is none, or this is that size.
    """

    def is_largest_lossless() -> bool:
        assert find_largest is not None
        return any(_is_lossless_webp(variant) for variant in find_largest().values())

    made: dict[object, Variant] = {}
    variants = {}
    for spec in specs:
        files = []
        for output in spec.files.values():
            if output == "jpeg" and stripped and _takes_stripped(spec, stripped):
                files.append(Variant(stripped, image.width, image.height, output))
                continue
            options = (output, spec.quality_for(output), spec.effort, spec.lossless, spec.max_bytes)
            if options not in made:
                data = encode_best(
                    image,
                    OUTPUT_FORMATS[output],
                    spec,
                    source,
                    find_largest and is_largest_lossless,
                )
                made[options] = Variant(data, image.width, image.height, output)
            files.append(made[options])
        first, *alternates = files
        variants[spec.name] = replace(first, alternates=tuple(alternates))
    return variants


def _takes_stripped(spec: VariantSpec, stripped: bytes) -> bool:
    """Return whether a JPEG need not be encoded again to be what *spec* asks for."""
    is_small = spec.max_bytes is None or len(stripped) <= spec.max_bytes
    return spec.quality is None and is_small


def _is_lossless_webp(variant: Variant) -> bool:
    """Return whether the variant, or one of its alternates, is a lossless WebP."""
    files = (variant, *variant.alternates)
    webps = [file.data for file in files if file.format == "webp"]
    return any(OUTPUT_FORMATS["webp"].read_coding(data).is_lossless for data in webps)
