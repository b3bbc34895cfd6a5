"""Decoding AVIF in one thread."""

from __future__ import annotations

from PIL import AvifImagePlugin

# Pillow has no other way to say so. A worker decodes one image, and has one processor.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class SingleThreadFile(AvifImagePlugin.AvifImageFile):
    """An AVIF, decoded in the calling thread: as many as the processor has cores would share it."""
