"""Encoding an animation as WebP, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

from PIL import (
    Image,
    WebPImagePlugin,  # noqa: F401 - registers the encoder
)

from imageprocessor.core.formats.encoding import Encoding


def encode_frames(
    frames: Iterator[Image.Image], delays: Sequence[float], plays: int, encoding: Encoding
) -> bytes:
    """Return an animation of RGB or RGBA images, which are drawn one at a time.

    *delays* has the milliseconds for which each is shown; *plays* is 0 for ever. Only the first one
    is a key frame. With one in every five, as is Pillow's default, the encoder would code each
    frame twice, and the file would have twice the bytes. A frame is coded losslessly where that is
    smaller: for a tenth of the CPU time, a drawing of few colours has a third of the bytes.

    Raises:
        MemoryError: The encoder runs out of memory.
    """
    image = _Frames(frames, len(delays))
    file = BytesIO()
    try:
        image.save(
            file,
            "WEBP",
            save_all=True,
            duration=list(delays),
            loop=plays,
            quality=encoding.quality,
            method=encoding.effort,
            allow_mixed=True,
            kmin=0,
            kmax=0,
        )
    except RuntimeError as error:  # it has no other reason: the images and options are valid
        raise MemoryError(
            f"Cannot allocate memory to encode {image.width} x {image.height} pixels ({error})."
        ) from error
    return file.getvalue()


class _Frames(Image.Image):
    """An image with *n_frames* frames, which ``seek`` draws in their order.

    A list of images to append, the usual way, would keep all of them in memory.
    """

    def __init__(self, frames: Iterator[Image.Image], n_frames: int) -> None:
        super().__init__()
        self.n_frames = n_frames
        self._frames = frames
        self._position = -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Show the next frame; stay at the last one when the encoder rewinds."""
        if frame <= self._position:
            return
        image = next(self._frames)
        self.im = image.im
        self._mode, self._size = image.mode, image.size
        self._position = frame

    def tell(self) -> int:
        return self._position
