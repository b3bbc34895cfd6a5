"""Checks of the decoders, which read untrusted files, and of the images drawn on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions

from imageprocessor.core.codecs import SIMD, find_broken, list_libraries, pillow_version
from imageprocessor.core.formats.registry import OUTPUT_FORMATS, join_titles
from imageprocessor.core.pipeline import dominant_color
from imageprocessor.core.validate import validate
from imageprocessor.errors import InputError
from imageprocessor.queue.maintenance.doctor.finding import Finding, ok, warning, wrong
from imageprocessor.settings import Settings

FIXED_IN = (13, 0)
REINSTALL = "pip uninstall -y pillow pillow-simd && pip install 'pillow>=13'"


def check_codecs(settings: Settings) -> Iterator[Finding]:
    """Yield findings on the packages that share PIL/, their version, and each format in use."""
    distributions = packages_distributions().get("PIL", ())
    packages = {name.lower().replace("_", "-") for name in distributions}
    if len(packages) > 1:
        both = " and ".join(sorted(packages))
        found = f"{both} share the folder PIL/, and may have overwritten each other's files."
        yield wrong("codec packages", found, REINSTALL)
    yield check_version(list_libraries(), pillow_version())
    used = {output for spec in settings.image_sizes for output in spec.files.values()}
    outputs = [output for output in OUTPUT_FORMATS if output in used]
    accepted = settings.allowed_mime_types
    broken = find_broken(accepted, outputs)
    for name, fault in broken.items():
        found = f"A one-pixel image cannot be processed: {fault}"
        yield wrong(f"codec {name}", found, REINSTALL)
    if not broken:
        titles = join_titles("and", accepted)
        encoded = ", ".join(OUTPUT_FORMATS[output].title for output in outputs)
        yield ok("codecs", f"{titles} are decoded. Encoded: {encoded}")


def check_watermarks(settings: Settings) -> Iterator[Finding]:
    """Yield a finding on each watermark that a size names: a bad one would fail every job."""
    images = settings.watermarks
    names = {spec.watermark_name for spec in settings.image_sizes if spec.watermark_name}
    for name in sorted(names):
        path = images[name]
        try:
            info = validate(path, settings.limits)
            dominant_color(path, settings.limits)
        except (InputError, OSError) as error:
            yield wrong(f"watermark {name}", f"{path}: {error}", "Replace the file.")
        else:
            yield ok(f"watermark {name}", f"{path}, {info.width}×{info.height} pixels")


def check_version(libraries: Mapping[str, str], version: tuple[int, ...]) -> Finding:
    """Return the finding on the *version* of Pillow, or Pillow-SIMD, and the *libraries* in it."""
    versions = ", ".join(f"{name} {number}" for name, number in libraries.items())
    if version >= FIXED_IN:
        return ok("codec versions", versions)
    lacking = f"{versions}: the decoders lack security fixes, including those of Pillow 13."
    if SIMD in libraries:
        return warning("codec versions", lacking, f"If strangers may upload: {REINSTALL}")
    return wrong("codec versions", lacking, "pip install --upgrade 'pillow>=13'")
