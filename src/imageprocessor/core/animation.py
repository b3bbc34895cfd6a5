"""Animations: drawing the frames of a file, and encoding a size of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pkgutil import resolve_name
from typing import BinaryIO

from PIL import Image

from imageprocessor.core.color.conversion import to_srgb
from imageprocessor.core.decode import Unpacked, decode
from imageprocessor.core.formats.container import Frame
from imageprocessor.core.formats.encoding import Encoding
from imageprocessor.core.formats.registry import FORMATS
from imageprocessor.core.limits import Limits, check_animation
from imageprocessor.core.orientation import upright
from imageprocessor.core.validate import ImageInfo
from imageprocessor.core.variants import Variant, VariantSpec
from imageprocessor.errors import InvalidImageError

_MOST_PLAYS = 0xFFFF
_MOST_MILLISECONDS = 0xFFFFFF
_MOST_IN_ALL = (1 << 31) - 1
"""What WebP can store: plays, the delay of a frame, and, in its encoder, the time of the last."""

_SHORTEST_DELAY = 10
_DEFAULT_DELAY = 100.0


@dataclass(frozen=True, slots=True)
class Animation:
    """All frames of a file, each still encoded.

    ``first`` is what was unpacked of the file: its orientation and its colours are those of every
    frame.
    """

    info: ImageInfo
    first: Unpacked
    limits: Limits
    frames: list[Frame]
    plays: int

    def list_delays(self) -> list[float]:
        """Return the milliseconds for which each frame is shown: browsers make 10 or less 100."""
        most = min(_MOST_MILLISECONDS, _MOST_IN_ALL // len(self.frames))
        delays = []
        for frame in self.frames:
            is_real = frame.milliseconds > _SHORTEST_DELAY
            delays.append(min(frame.milliseconds, most) if is_real else _DEFAULT_DELAY)
        return delays

    def draw(self) -> Iterator[Image.Image]:
        """Yield the canvas after each frame: upright, in sRGB. Use it before the next one is drawn.

        Raises:
            InputError: A frame is damaged, as for ``decode``.
        """
        canvas = Image.new("RGBA", (self.info.width, self.info.height))
        for frame in self.frames:
            before = canvas.copy() if frame.disposal == "restore" else canvas
            image = self._decode(frame)
            _draw(frame, image, canvas)
            yield upright(_drop_opaque_alpha(canvas), self.first.orientation)
            canvas = before
            if frame.disposal == "clear":
                right, bottom = frame.left + frame.width, frame.top + frame.height
                canvas.paste((0, 0, 0, 0), (frame.left, frame.top, right, bottom))

    def _decode(self, frame: Frame) -> Image.Image:
        """Return one frame in sRGB."""
        unpacked = self.first._replace(image=BytesIO(frame.still), coded=())
        image = decode(unpacked, self.info, self.limits)
        if image.size != (frame.width, frame.height):
            raise InvalidImageError(
                f"The animation has a frame of {image.width} x {image.height} pixels that declares "
                f"{frame.width} x {frame.height}. Re-encode it."
            )
        converted, _ = to_srgb(image)
        return converted


def open_animation(
    file: BinaryIO, info: ImageInfo, unpacked: Unpacked, limits: Limits
) -> Animation | None:
    """Return the animation in a file, or None if it has only one frame.

    Raises:
        AnimationTooLongError: It has too many frames, or they have too many pixels in all.
        TruncatedImageError: Frames are missing.
        InvalidImageError: The frames do not follow the format.
    """
    read_frames = FORMATS[info.format].read_frames
    if read_frames is None:
        return None
    check_animation(info.frames, info.width * info.height, limits)
    frames, plays = read_frames(file)
    if len(frames) < 2:
        return None
    # A GIF's frame may be larger than its canvas.
    largest = max(frame.width * frame.height for frame in frames)
    check_animation(len(frames), max(largest, info.width * info.height), limits)
    return Animation(info, unpacked._replace(image=BytesIO()), limits, frames, plays)


def encode_animation(
    animation: Animation, spec: VariantSpec, change: Callable[[Image.Image], Image.Image]
) -> Variant:
    """Return the variant *spec* of an animation; *change* returns a frame in its size.

    If all frames look the same, the result is a still image.
    """
    frames = map(change, animation.draw())
    first = next(frames)
    width, height = first.size
    delays = animation.list_delays()
    plays = min(animation.plays, _MOST_PLAYS)
    encoding = Encoding(spec.quality_for("webp"), spec.effort_for(width))
    output = FORMATS["WEBP"]  # the only format that can move
    assert output.frame_encoder is not None
    encode = resolve_name(output.frame_encoder)
    data = encode(chain([first], frames), delays, plays, encoding)
    encoded_frames = output.container.read_header(BytesIO(data)).frames
    if encoded_frames == 1:
        return Variant(data, width, height)
    seconds = round(sum(delays) / 1000, 3)
    return Variant(data, width, height, frames=encoded_frames, duration_seconds=seconds)


def _draw(frame: Frame, image: Image.Image, canvas: Image.Image) -> None:
    """Draw an RGB or RGBA image on the RGBA canvas."""
    position = (frame.left, frame.top)
    if frame.blends and image.mode == "RGBA":
        canvas.alpha_composite(image, position)
    else:
        canvas.paste(image, position)


def _drop_opaque_alpha(canvas: Image.Image) -> Image.Image:
    """Return an RGBA image, without its alpha if every pixel is opaque."""
    is_opaque = canvas.getchannel("A").getextrema() == (255, 255)
    return canvas.convert("RGB") if is_opaque else canvas
