"""The decoders, which see what strangers send: their versions, and whether they work."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import packages_distributions

from imageprocessor.core.codecs import find_broken, list_libraries, pillow_version
from imageprocessor.queue.doctor.finding import Finding, ok, warning, wrong

FIXED_IN = (12, 3)
REINSTALL = "pip uninstall -y pillow pillow-simd && pip install 'pillow>=12.3'"
SIMD = "pillow-simd"


def check_codecs() -> Iterator[Finding]:
    """Yield findings on the distributions in PIL/, their version, and each format."""
    found = {name.lower().replace("_", "-") for name in packages_distributions().get("PIL", ())}
    if len(found) > 1:
        both = " and ".join(sorted(found))
        yield wrong("codec packages", f"{both} lie in the same folder, PIL/: which file is whose is chance.", REINSTALL)
    libraries = ", ".join(f"{name} {version}" for name, version in list_libraries().items())
    yield check_version(libraries, pillow_version(), simd=SIMD in found)
    for name, fault in (broken := find_broken()).items():
        yield wrong(f"codec {name}", f"An image of one pixel cannot be processed: {fault}", REINSTALL)
    if not broken:
        yield ok("codecs", "JPEG, PNG and WebP are decoded, WebP is encoded")


def check_version(libraries: str, version: tuple[int, ...], *, simd: bool) -> Finding:
    """Return the finding on Pillow, or Pillow-SIMD, and the *libraries* in it."""
    if version >= FIXED_IN:
        return ok("codec versions", libraries)
    found = f"{libraries}: the decoders lack the security fixes of Pillow 12.3."
    if simd:
        return warning("codec versions", f"Pillow-SIMD, {found}", f"If strangers may upload: {REINSTALL}")
    return wrong("codec versions", found, "pip install --upgrade 'pillow>=12.3'")
