"""What an image is and what it gives away, for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageprocessor.cli.batch import describe_error, error_code
from imageprocessor.cli.output import print_error, print_pairs, show_bytes
from imageprocessor.core.limits import Limits
from imageprocessor.core.metadata import read_metadata
from imageprocessor.core.validate import validate
from imageprocessor.errors import ImageProcessorError

NO_LIMITS = Limits(max_bytes=sys.maxsize, max_pixels=sys.maxsize, max_side=sys.maxsize)
"""Nothing is decoded here, so nothing needs to be bounded."""

TOLD = {"taken_at": "time", "camera": "camera", "software": "software"}
"""What of the metadata, besides a place, tells of a person, and what to call it."""


def read_report(path: Path) -> dict[str, Any]:
    """Return all that is known of the image at *path*, ready for JSON.

    Or ``file``, ``error`` and ``error_code``.
    """
    try:
        info, metadata = validate(path, NO_LIMITS), read_metadata(path)
        size_bytes = path.stat().st_size
    except (ImageProcessorError, OSError) as error:
        return {"file": str(path), "error": describe_error(error), "error_code": error_code(error)}
    return {
        "file": str(path),
        "format": info.format,
        "mime_type": info.mime_type,
        "size_bytes": size_bytes,
        "width": info.width,
        "height": info.height,
        "frames": info.frames,
        "orientation": metadata.orientation,
        "color_profile": metadata.icc,
        "camera": metadata.camera,
        "software": metadata.software,
        "taken_at": metadata.taken_at,
        "gps": {"latitude": metadata.gps[0], "longitude": metadata.gps[1]}
        if metadata.gps
        else None,
        "metadata": list(metadata.kinds),
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Print a report for people; an error goes to stderr."""
    if "error" in report:
        print_error(f"{report['file']}: {report['error']}")
        return
    gps = report["gps"]
    frames = f", {report['frames']} frames" if report["frames"] > 1 else ""
    print_pairs(
        report["file"],
        {
            "format": f"{report['format']}{frames}, {show_bytes(report['size_bytes'])}",
            "pixels": f"{report['width']}×{report['height']}",
            "orientation": report["orientation"],
            "colour profile": report["color_profile"],
            "camera": report["camera"],
            "software": report["software"],
            "taken": report["taken_at"],
            "place": gps and f"{gps['latitude']}, {gps['longitude']}",
            "metadata": ", ".join(report["metadata"]) or "none",
        },
    )


def list_removed(before: bytes, after: bytes) -> list[str]:
    """Name what *before* gives away and *after* does not.

    Kinds of metadata, then what they told.
    """
    had, has = read_metadata(before), read_metadata(after)
    gone = [kind for kind in had.kinds if kind not in has.kinds]
    if "exif" in has.kinds and before != after:
        gone.append("exif except orientation")
    return gone + [
        name for field, name in TOLD.items() if getattr(had, field) and not getattr(has, field)
    ]
