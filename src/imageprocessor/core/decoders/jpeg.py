"""Decoding a JPEG scan by scan, to find out whether all its pixels are there.

libjpeg fills missing pixels with gray and only warns, which Pillow ignores. But it waits for more
when its input ends within a scan. So the end of each scan is decoded without the marker that
follows: then a whole scan is finished, and one that was cut is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from PIL import Image, ImageFile

from imageprocessor.core.formats.container import CodedData
from imageprocessor.core.formats.jpeg import SOF_MARKERS
from imageprocessor.errors import InvalidImageError, TruncatedImageError

_CODEC = "imageprocessor_jpeg"
_SOS, _DRI, _EOI = 0xDA, 0xDD, b"\xff\xd9"
_HUFFMAN, _PROGRESSIVE = {0xC0, 0xC1, 0xC2}, {0xC2, 0xCA}
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_PADDING = b"\0\xff" + bytes(range(0xD0, 0xD8))
"""What encoders add behind the last pixel: zeros, fill bytes, a restart marker."""

_ONES = b"\xff\0"
"""Eight one bits within a scan, which are never a valid code; between scans, libjpeg skips them."""

_READ_AHEAD = 8
"""The bytes that libjpeg wants to read before it decodes the last pixels, whether it needs them or
not. So up to three blocks of 8 × 8 pixels may be missing at the end of a scan without notice."""

_MAX_SURPLUS = 1
"""The bytes that were found in good files behind the last pixel, without padding."""


@dataclass(slots=True)
class _Scan:
    """The coded data of a scan, and the number of restart markers that it needs."""

    coded: CodedData
    restarts: int


@dataclass(slots=True)
class _Frame:
    """What a JPEG's segments say about its image.

    Args:
        marker: the start-of-frame marker, which names the coding.
        sampling: the horizontal and vertical sampling factor of each component, by its id.
        missing: the coefficients of each component that no scan has completed yet.
        is_progressive_or_split: whether libjpeg reads all scans before it returns pixels.
    """

    marker: int = 0
    width: int = 0
    height: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    missing: dict[int, set[int]] = field(default_factory=dict)
    scans: list[_Scan] = field(default_factory=list)
    is_progressive_or_split: bool = False


def decode_by_scan(
    image: ImageFile.ImageFile, coded: Sequence[CodedData], *, has_end_mark: bool
) -> None:
    """Make ``image.load`` raise an error if a part of the JPEG is missing.

    *coded* is the coded data of its scans. Without *has_end_mark*, the last one may contain other
    bytes behind the last pixel. ``load`` raises ``TruncatedImageError`` if the file ends before the
    image does, and ``InvalidImageError`` if a part in the middle of a scan is missing or damaged,
    as far as it can be noticed.
    """
    (tile,) = image.tile
    assert isinstance(tile.args, tuple)
    image.tile = [tile._replace(codec_name=_CODEC, args=(coded, has_end_mark, *tile.args))]


class _ScanDecoder(ImageFile.PyDecoder):
    """Pillow's JPEG decoder, given one scan at a time."""

    _pulls_fd = True

    def init(self, args: tuple[Any, ...]) -> None:
        self._coded, self._has_end_mark, *options = args
        # Pillow has no public way to run one of its decoders by hand.
        self._decoder = Image.core.jpeg_decoder(self.mode, *options)  # type: ignore[attr-defined]

    def setimage(self, *args: Any) -> None:
        super().setimage(*args)
        self._decoder.setimage(*args)

    def cleanup(self) -> None:
        self._decoder.cleanup()

    def decode(self, buffer: Any) -> tuple[int, int]:  # noqa: ARG002 - reads the file instead
        """Decode the whole file; return -1 and Pillow's error code, which is 0 for a good file."""
        assert self.fd is not None
        data = self.fd.read()
        frame = _read_frame(data, self._coded)
        missing_restarts = _count_missing_restarts(data, frame)
        if frame.marker not in _HUFFMAN:  # libjpeg cannot wait for more in the middle
            status, error = self._decoder.decode(data)
        elif frame.is_progressive_or_split:
            status, error = self._decode_scans(memoryview(data), frame)
        else:
            status, error = self._decode_scan(memoryview(data), frame.scans[0])
        if status >= 0 or (error == 0 and any(frame.missing.values())):
            raise _truncated()
        if error == 0 and frame.marker in _HUFFMAN and missing_restarts:
            raise _damaged()
        return -1, error

    def _decode_scan(self, data: memoryview, scan: _Scan) -> tuple[int, int]:
        """Decode a file of one scan, which ends with the last row of pixels."""
        start, error = self._decode_intervals(data, 0, scan)
        if start < 0:
            return start, error
        before_end = _before_end(data, scan.coded)
        used, error = self._decoder.decode(data[start:before_end])
        if used < 0:
            if error == 0 and self._has_end_mark:
                raise _surplus()
            return used, error
        return self._finish_scan(data, start + used, scan)

    def _decode_scans(self, data: memoryview, frame: _Frame) -> tuple[int, int]:
        """Decode a file of several scans, which ends with the end-of-image marker."""
        start = 0
        for scan in frame.scans:
            start, error = self._decode_intervals(data, start, scan)
            if start < 0:
                return start, error
            before_end = _before_end(data, scan.coded)
            used, error = self._decoder.decode(data[start:before_end])
            if used < 0:
                return used, error
            start += used
            if start == before_end and self._skips_ones():
                if self._has_end_mark or scan is not frame.scans[-1]:
                    raise _surplus()
                break
            used, error = self._finish_scan(data, start, scan)
            if used < 0:
                return used, error
            used_all = used == scan.coded.end - start + len(_ONES) * _READ_AHEAD
            if not (used_all and self._skips_ones()):
                raise _truncated()
            start = scan.coded.end
        status: tuple[int, int] = self._decoder.decode(_EOI)
        return status

    def _decode_intervals(self, data: memoryview, start: int, scan: _Scan) -> tuple[int, int]:
        """Decode a scan from *start* up to its last restart marker; return how far it was decoded.

        The second number is Pillow's error code; if there is an error, the first one is negative.
        """
        interval_start = scan.coded.start
        markers = _RESTART.finditer(data, *scan.coded)
        for marker in islice(markers, scan.restarts):
            interval = CodedData(interval_start, marker.start())
            before_end = _before_end(data, interval)
            used, error = self._decoder.decode(data[start:before_end])
            if used < 0:
                return used, error
            start += used
            # At the end of an interval, the decoder skips bytes until it finds a restart marker.
            if start == before_end and self._skips_ones():
                raise _surplus()
            interval_start = marker.end()
        return start, 0

    def _finish_scan(self, data: memoryview, start: int, scan: _Scan) -> tuple[int, int]:
        rest = bytes(data[start : scan.coded.end]) + _ONES * _READ_AHEAD
        status: tuple[int, int] = self._decoder.decode(rest)
        return status

    def _skips_ones(self) -> bool:
        """Return whether the decoder is between scans: within one, eight bits are too few for it.

        It must have used all that it got before.
        """
        used, _ = self._decoder.decode(_ONES)
        return bool(used == len(_ONES))


Image.register_decoder(_CODEC, _ScanDecoder)


def _truncated() -> TruncatedImageError:
    return TruncatedImageError(
        "The JPEG ends before its last pixel: image data is missing. Send the whole file."
    )


def _surplus() -> InvalidImageError:
    return InvalidImageError(
        "The JPEG is damaged: there is image data behind its last pixel. Send the file again."
    )


def _damaged() -> InvalidImageError:
    return InvalidImageError(
        "The JPEG is damaged: a part in the middle is missing. Send the file again."
    )


def _before_end(data: memoryview, coded: CodedData) -> int:
    """Return a position that only damaged coded data reaches after its last pixel."""
    start, end = coded
    significant = bytes(data[start:end]).rstrip(_PADDING)
    return start + max(0, len(significant) - _MAX_SURPLUS - 1)


def _count_missing_restarts(data: bytes, frame: _Frame) -> int:
    """Return how many restart markers are missing; raise ``InvalidImageError`` if out of order."""
    missing = 0
    for scan in frame.scans:
        if not scan.restarts:
            continue
        found = _RESTART.findall(data, *scan.coded)[: scan.restarts]
        needed = [bytes((0xFF, 0xD0 + number % 8)) for number in range(len(found))]
        if found != needed:
            raise _damaged()
        missing += scan.restarts - len(found)
    return missing


def _read_frame(data: bytes, coded: Sequence[CodedData]) -> _Frame:
    """Return what the segments of a file say; there are no other bytes between them."""
    ends_of_coded = dict(coded)
    frame = _Frame()
    restart_interval = 0
    for marker, payload, end in _read_segments(data, ends_of_coded):
        if marker in SOF_MARKERS:
            _read_start_of_frame(frame, marker, payload)
        elif marker == _DRI:
            restart_interval = int.from_bytes(payload[:2])
        elif marker == _SOS:
            scan = CodedData(end, ends_of_coded.get(end, end))
            _read_start_of_scan(frame, payload, scan, restart_interval)
    return frame


def _read_segments(data: bytes, ends_of_coded: dict[int, int]) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, payload and end of every segment."""
    position = 2
    while position + 4 <= len(data):
        length = int.from_bytes(data[position + 2 : position + 4])
        end = position + 2 + length
        yield data[position + 1], data[position + 4 : end], end
        position = ends_of_coded.get(end, end)


def _read_start_of_frame(frame: _Frame, marker: int, payload: bytes) -> None:
    frame.marker = marker
    frame.height = int.from_bytes(payload[1:3])
    frame.width = int.from_bytes(payload[3:5])
    for place in range(6, 6 + 3 * payload[5], 3):
        component, factors = payload[place], payload[place + 1]
        frame.sampling[component] = (factors >> 4, factors & 15)
        frame.missing[component] = set(range(64))


def _read_start_of_scan(
    frame: _Frame, payload: bytes, coded: CodedData, restart_interval: int
) -> None:
    end_of_components = 1 + 2 * payload[0]
    components = payload[1:end_of_components:2]
    first, last, bits = payload[end_of_components : end_of_components + 3]
    is_progressive = frame.marker in _PROGRESSIVE
    for component in components:
        if not is_progressive:
            frame.missing[component].clear()
        elif bits & 15 == 0:  # no later scan refines these coefficients
            frame.missing[component] -= set(range(first, last + 1))
    if is_progressive or len(components) < len(frame.sampling):
        frame.is_progressive_or_split = True
    restarts = 0
    if restart_interval:
        restarts = (_count_units(frame, components) - 1) // restart_interval
    frame.scans.append(_Scan(coded, restarts))


def _count_units(frame: _Frame, components: bytes) -> int:
    """Return the number of minimum coded units in a scan (ITU-T T.81 A.2)."""
    most_across = max(across for across, _ in frame.sampling.values())
    most_down = max(down for _, down in frame.sampling.values())
    if len(components) > 1:
        columns = -(-frame.width // (8 * most_across))
        rows = -(-frame.height // (8 * most_down))
        return columns * rows
    across, down = frame.sampling[components[0]]
    width = -(-frame.width * across // most_across)
    height = -(-frame.height * down // most_down)
    return -(-width // 8) * -(-height // 8)
