"""Applying a transformation to an upright image in sRGB: all operations, in their fixed order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from imageprocessor.core.geometry import MAX_OUTPUT_SIDE, Dimensions
from imageprocessor.core.resize import resize
from imageprocessor.core.transformations import borders, colour, filters, geometry, overlay
from imageprocessor.core.transformations.attention import find_subject
from imageprocessor.core.transformations.geometry import PixelBox
from imageprocessor.core.transformations.grammar import Transformation
from imageprocessor.errors import InvalidTransformationError


@dataclass(slots=True)
class Choices:
    """What was decided by looking at the pixels. The first frame of an animation decides for all.

    Args:
        content: the box that ``trim`` keeps.
        subject: left and top of the area that the gravity "auto" keeps.
    """

    content: PixelBox | None = None
    subject: tuple[int, int] | None = None


@dataclass(slots=True)
class View:
    """An image between operations.

    Until it is resized, boxes and points count in pixels of the upright original, of which
    ``image`` may be a smaller copy, and ``box`` is the part that is kept.

    Args:
        whole: the size of the original that *image* shows.
        focus: the point that must stay in the image, if there is one.
        mark: the watermark's image.
        max_pixels: the limit on the result.
        choices: what earlier frames decided, and this one decides.
        canvas: the size that the resized image is extended to.
        density: the part of ``dpr`` that resizing reached.
    """

    wanted: Transformation
    image: Image.Image
    whole: Dimensions
    box: PixelBox
    focus: tuple[float, float] | None
    mark: Image.Image | None
    max_pixels: int
    choices: Choices
    canvas: Dimensions = field(init=False)
    density: float = field(init=False)

    @property
    def size(self) -> Dimensions:
        """The size of the part that is kept, before it is resized."""
        left, top, right, bottom = self.box
        return Dimensions(right - left, bottom - top)

    def scale(self, length: int) -> int:
        """Return a length in pixels of the screen in pixels of the image, at least 1."""
        return max(1, round(length * self.density))


def apply(
    wanted: Transformation,
    image: Image.Image,
    original: Dimensions,
    mark: Image.Image | None,
    max_pixels: int,
    choices: Choices | None = None,
) -> Image.Image:
    """Return *image*, which shows all of the upright *original*, transformed; it stays as it is.

    For the frames of an animation, pass the same *choices* again.

    Raises:
        InvalidTransformationError: The crop is not within the image, or the result would have more
            than *max_pixels*, or a side longer than WebP allows.
    """
    box = (0, 0, *original)
    focus = geometry.find_focus(wanted.gravity, original)
    view = View(wanted, image, original, box, focus, mark, max_pixels, choices or Choices())
    for step in STEPS:
        step(view)
    return view.image


def crop(view: View) -> None:
    """Keep only the box that is asked for."""
    view.box = geometry.find_crop_box(view.wanted, view.whole)


def trim(view: View) -> None:
    """Remove a border of one colour. The image has its original size, see ``find_needed``."""
    if not view.wanted.trim:
        return
    assert view.image.size == view.whole
    left, top, _, _ = view.box
    if view.choices.content is None:
        view.choices.content = borders.find_content(view.image.crop(view.box))
    content = view.choices.content
    view.box = (left + content[0], top + content[1], left + content[2], top + content[3])


def rotate_and_flip(view: View) -> None:
    """Rotate, then flip."""
    wanted = view.wanted
    if wanted.rotate == 90:
        _turn(view, Image.Transpose.ROTATE_270, lambda x, y: (view.whole.height - y, x))
    elif wanted.rotate == 180:
        _mirror(view, horizontally=True)
        _mirror(view, horizontally=False)
    elif wanted.rotate == 270:
        _turn(view, Image.Transpose.ROTATE_90, lambda x, y: (y, view.whole.width - x))
    if wanted.flip in ("h", "hv"):
        _mirror(view, horizontally=True)
    if wanted.flip in ("v", "hv"):
        _mirror(view, horizontally=False)


def resize_to_bounds(view: View) -> None:
    """Resize to the bounds; with "cover", choose the part that is kept."""
    wanted, source = view.wanted, view.size
    plan = geometry.plan_resize(wanted, source)
    padding = 2 * view.wanted.pad * plan.density
    _check_output(plan.canvas.width + padding, plan.canvas.height + padding, view.max_pixels)
    x_scale = view.image.width / view.whole.width
    y_scale = view.image.height / view.whole.height
    left, top, _, _ = view.box
    if plan.area != source:
        x, y = _choose_area(view, plan.area)
        left, top = left + x, top + y
    box = (
        left * x_scale,
        top * y_scale,
        min((left + plan.area.width) * x_scale, view.image.width),
        min((top + plan.area.height) * y_scale, view.image.height),
    )
    is_same = plan.size == view.image.size and box == (0, 0, *view.image.size)
    if not is_same:
        view.image = resize(view.image, plan.size, box)
    view.density = plan.density
    view.canvas = plan.canvas


def pad(view: View) -> None:
    """Extend the image to its canvas, add pixels on all sides, and lay it on its background.

    All at once, because a translucent background must not be laid under the image twice.
    """
    wanted, size = view.wanted, Dimensions(*view.image.size)
    pixels = view.scale(wanted.pad) if wanted.pad else 0
    gravity = wanted.gravity if wanted.fit == "pad" else "center"
    left, top = geometry.place(gravity, view.canvas, size)
    canvas = Dimensions(view.canvas.width + 2 * pixels, view.canvas.height + 2 * pixels)
    background = borders.read_color(wanted.background)
    view.image = borders.extend(view.image, canvas, (left + pixels, top + pixels), background)


def change_colors(view: View) -> None:
    """Change brightness, contrast and saturation, then remove the colours."""
    wanted = view.wanted
    if wanted.brightness:
        view.image = colour.change_brightness(view.image, wanted.brightness)
    if wanted.contrast:
        view.image = colour.change_contrast(view.image, wanted.contrast)
    if wanted.saturation:
        view.image = colour.change_saturation(view.image, wanted.saturation)
    if wanted.grayscale:
        view.image = colour.to_grayscale(view.image)
    if wanted.sepia:
        view.image = colour.to_sepia(view.image)


def filter_details(view: View) -> None:
    """Blur, sharpen, then pixelate."""
    wanted = view.wanted
    if wanted.blur:
        view.image = filters.blur(view.image, wanted.blur * view.density)
    if wanted.sharpen:
        view.image = filters.sharpen(view.image, wanted.sharpen)
    if wanted.pixelate:
        view.image = filters.pixelate(view.image, view.scale(wanted.pixelate))


def draw_watermark(view: View) -> None:
    """Draw the watermark, within its part of width and height."""
    if view.wanted.watermark is None:
        return
    assert view.mark is not None
    _, gravity, opacity, percent = view.wanted.watermark.split(":")
    outer = Dimensions(*view.image.size)
    size = geometry.fit_mark(Dimensions(*view.mark.size), outer, int(percent))
    mark = view.mark if view.mark.size == size else resize(view.mark, size)
    position = geometry.place(gravity, outer, size)
    view.image = overlay.draw_over(view.image, mark, position, int(opacity) / 100)


def round_corners(view: View) -> None:
    """Make the corners round."""
    radius = view.wanted.radius
    if radius == "max":
        view.image = overlay.round_corners(view.image, MAX_OUTPUT_SIDE)
    elif radius:
        view.image = overlay.round_corners(view.image, view.scale(radius))


STEPS: tuple[Callable[[View], None], ...] = (
    crop,
    trim,
    rotate_and_flip,
    resize_to_bounds,
    pad,
    change_colors,
    filter_details,
    draw_watermark,
    round_corners,
)
"""All operations. Their order is part of the contract: equal transformations look the same."""


def _mirror(view: View, *, horizontally: bool) -> None:
    width, height = view.whole
    if horizontally:
        _turn(view, Image.Transpose.FLIP_LEFT_RIGHT, lambda x, y: (width - x, y))
    else:
        _turn(view, Image.Transpose.FLIP_TOP_BOTTOM, lambda x, y: (x, height - y))


def _turn(
    view: View,
    transposition: Image.Transpose,
    move: Callable[[float, float], tuple[float, float]],
) -> None:
    """Transpose the image; *move* returns where a point of it goes."""
    left, top, right, bottom = view.box
    xs, ys = zip(move(left, top), move(right, bottom), strict=True)
    view.box = (round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys)))
    if view.focus is not None:
        view.focus = move(*view.focus)
    view.image = view.image.transpose(transposition)
    is_sideways = transposition in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
    view.whole = view.whole.turned() if is_sideways else view.whole


def _choose_area(view: View, area: Dimensions) -> tuple[int, int]:
    """Return left and top, within the box, of the area that is kept."""
    gravity, source = view.wanted.gravity, view.size
    left, top, right, bottom = view.box
    if view.focus is not None:
        focus = (view.focus[0] - left, view.focus[1] - top)
        return geometry.place_around(focus, source, area)
    if gravity == "auto":
        x_scale = view.image.width / view.whole.width
        y_scale = view.image.height / view.whole.height
        shown = (left * x_scale, top * y_scale, right * x_scale, bottom * y_scale)
        if view.choices.subject is None:
            view.choices.subject = find_subject(view.image, shown, source, area)
        return view.choices.subject
    return geometry.place(gravity, source, area)


def _check_output(width: float, height: float, max_pixels: int) -> None:
    """Raise an error if the result would be too large."""
    if max(width, height) > MAX_OUTPUT_SIDE or width * height > max_pixels:
        raise InvalidTransformationError(
            f"The result would have {width:.0f} x {height:.0f} pixels. Use smaller bounds: "
            f"at most {MAX_OUTPUT_SIDE} on a side, and {max_pixels} in all."
        )
