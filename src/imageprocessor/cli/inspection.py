"""Reports on an image and the personal data in it, as text or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageprocessor.cli.batch import report_error
from imageprocessor.cli.files import open_input
from imageprocessor.cli.output import print_error, print_pairs, show_bytes
from imageprocessor.core.formats.registry import list_installed_mime_types
from imageprocessor.core.limits import Limits
from imageprocessor.core.metadata import read_metadata
from imageprocessor.core.validate import validate
from imageprocessor.errors import ImageProcessorError

#: No pixels are decoded here, so no limits are needed.
NO_LIMITS = Limits(
    max_bytes=sys.maxsize,
    max_pixels=sys.maxsize,
    max_side=sys.maxsize,
    mime_types=frozenset(list_installed_mime_types()),
)

#: Metadata fields that reveal personal data, other than the location, and their names.
PERSONAL_FIELDS = {"taken_at": "time", "camera": "camera", "software": "software"}


def read_report(path: Path) -> dict[str, Any]:
    """Return everything known about the image at *path*, or on stdin for ``-``, ready for JSON.

    If it cannot be read, return ``file``, ``error`` and ``error_code``.
    """
    file = str(path)
    try:
        data, size_bytes = open_input(path)
        info = validate(data, NO_LIMITS)
        metadata = read_metadata(data)
    except (ImageProcessorError, OSError) as error:
        return {"file": file, **report_error(error)}
    gps = None
    if metadata.gps:
        latitude, longitude = metadata.gps
        gps = {"latitude": latitude, "longitude": longitude}
    image = {
        "file": file,
        "format": info.format,
        "mime_type": info.mime_type,
        "size_bytes": size_bytes,
        "width": info.width,
        "height": info.height,
        "frames": info.frames,
        "duration": info.duration,
    }
    revealed = {
        "orientation": metadata.orientation,
        "color_profile": metadata.icc,
        "camera": metadata.camera,
        "software": metadata.software,
        "taken_at": metadata.taken_at,
        "gps": gps,
        "metadata": list(metadata.kinds),
    }
    return {**image, **revealed}


def print_report(report: Mapping[str, Any]) -> None:
    """Print a report as text; an error goes to stderr."""
    if "error" in report:
        print_error(f"{report['file']}: {report['error']}")
        return
    frames = ""
    if report["frames"] > 1:
        frames = f", {report['frames']} frames in {report['duration']} s"
    size = show_bytes(report["size_bytes"])
    image = {
        "format": f"{report['format']}{frames}, {size}",
        "pixels": f"{report['width']}×{report['height']}",
        "orientation": report["orientation"],
        "colour profile": report["color_profile"],
    }
    gps = report["gps"]
    revealed = {
        "camera": report["camera"],
        "software": report["software"],
        "taken": report["taken_at"],
        "place": f"{gps['latitude']}, {gps['longitude']}" if gps else None,
        "metadata": ", ".join(report["metadata"]) or "none",
    }
    print_pairs(report["file"], {**image, **revealed})


def list_removed(before: bytes, after: bytes) -> list[str]:
    """Return what *before* reveals and *after* does not: kinds of metadata, then personal data."""
    had, has = read_metadata(before), read_metadata(after)
    removed = [kind for kind in had.kinds if kind not in has.kinds]
    if "exif" in has.kinds and before != after:
        removed.append("exif except orientation")
    for field, name in PERSONAL_FIELDS.items():
        if getattr(had, field) and not getattr(has, field):
            removed.append(name)
    return removed
