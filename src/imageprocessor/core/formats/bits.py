"""Numbers that do not fill whole bytes, in the headers of coded images."""

from __future__ import annotations

from imageprocessor.errors import InvalidImageError

_MAX_ZEROS = 32


class Bits:
    """The bits of a header, read one number after the other, the highest bit first.

    >>> bits = Bits(bytes([0b101_00110, 0]))
    >>> bits.number(3), bits.exponential()
    (5, 5)
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def number(self, width: int) -> int:
        """Return the next *width* bits; raise ``InvalidImageError`` if there are fewer."""
        if width > self._left:
            raise InvalidImageError("The header of the coded image is too short. Re-encode it.")
        self._left -= width
        return self._value >> self._left & (1 << width) - 1

    def exponential(self) -> int:
        """Return an Exp-Golomb number: after n zeros, n + 1 bits of the number plus 1."""
        zeros = 0
        while not self.number(1):
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise InvalidImageError("The header of the coded image is damaged. Re-encode it.")
        return (1 << zeros) - 1 + self.number(zeros)
