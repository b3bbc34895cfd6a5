"""Decoding the first image of a GIF as browsers show it."""

from __future__ import annotations

from typing import Any

from PIL.GifImagePlugin import GifImageFile

from imageprocessor.errors import TruncatedImageError

_TRANSPARENT = (0, 0, 0, 0)


class FirstFrameFile(GifImageFile):
    """A GIF whose ``load`` returns its first image, on a screen that is transparent elsewhere.

    Pillow would fill the rest of the screen with a colour of the palette.
    """

    def _open(self) -> None:
        super()._open()
        if self.mode == "L":  # its levels are its colours, whatever the palette of the screen is
            self.palette = None

    def load(self) -> Any:
        try:
            return super().load()
        except OSError as error:
            if "truncated" in str(error):
                raise TruncatedImageError(
                    "The GIF ends before its last pixel: image data is missing. "
                    "Send the whole file."
                ) from error
            raise

    def load_end(self) -> None:
        assert self.dispose_extent is not None
        left, top, right, bottom = self.dispose_extent
        width, height = self.size
        super().load_end()
        if (left, top, right, bottom) == (0, 0, width, height):
            return
        screen = self.convert("RGBA")
        for box in (
            (0, 0, width, top),
            (0, bottom, width, height),
            (0, top, left, bottom),
            (right, top, width, bottom),
        ):
            screen.paste(_TRANSPARENT, box)
        self.im = screen.im
        self._mode = screen.mode
        self.info.pop("transparency", None)
