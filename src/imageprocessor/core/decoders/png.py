"""Decoding a PNG, and finding out whether all its pixels are there."""

from __future__ import annotations

from PIL.PngImagePlugin import PngImageFile

from imageprocessor.core.formats.png import has_all_pixels, missing_pixels


class WholePngFile(PngImageFile):
    """A PNG whose ``load`` raises ``TruncatedImageError`` if pixels are missing.

    Pillow only notices that if the compressed data ends too early, not if it is whole but has too
    few rows. It leaves those black, so only an image whose last row is black needs to be counted,
    or one that is interlaced: its last row is not the last one in the file.
    """

    def load_read(self, read_bytes: int) -> bytes:
        data = super().load_read(read_bytes)
        if not data:
            raise missing_pixels()
        return data

    def load_end(self) -> None:
        file = self.fp
        assert file is not None
        super().load_end()
        last_row = self.crop((0, self.height - 1, self.width, self.height))
        may_be_missing = "interlace" in self.info or not any(last_row.tobytes())
        if may_be_missing:
            file.seek(0)
            if not has_all_pixels(file.read()):
                raise missing_pixels()
