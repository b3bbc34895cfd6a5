"""The upload's form, read as it streams in: two bounded text fields and one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from imageprocessor.errors import (
    FileTooLargeError,
    InvalidBucketError,
    InvalidFormError,
    InvalidMetadataError,
    MissingFileError,
    RequestError,
    TooManyFilesError,
)

MARGIN_BYTES = 64 * 1024  #: what a body may have besides its file
MAX_PARTS = 16
MAX_FIELD_BYTES = 32 * 1024
FILE = "file"
TEXT_FIELDS: dict[str, type[RequestError]] = {
    "bucket": InvalidBucketError,
    "metadata": InvalidMetadataError,
}


class TextFields(NamedTuple):
    """The form's text fields; one that was not sent is empty."""

    bucket: str
    metadata: str


@dataclass(slots=True)
class Part:
    """The part of the form that is being read."""

    name: str | None = None
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)


class UploadForm:
    """Reads ``multipart/form-data``: :meth:`feed` it the body, then :meth:`finish` it.

    *write_file* is called with each piece of the file; it must copy what it keeps.

    Raises:
        InvalidFormError: *content_type* is not that of such a form, or has no boundary.
    """

    def __init__(
        self, content_type: str, max_file_bytes: int, write_file: Callable[[memoryview], None]
    ) -> None:
        self._max_file_bytes = max_file_bytes
        self._write_file = write_file
        self._body_size = 0
        self._file_size = 0
        self._names: set[str] = set()  # of the known parts that came
        self._texts = {name: bytearray() for name in TEXT_FIELDS}
        self._part = Part()
        self._part_count = 0
        self._complete = False
        self._parser = self._make_parser(content_type)

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the body.

        Raises:
            FileTooLargeError: The file, or the body as a whole, is above the limit.
            InvalidFormError, TooManyFilesError, InvalidBucketError, InvalidMetadataError: The form
                is not acceptable.
        """
        self._body_size += len(chunk)
        check_body_size(self._body_size, self._max_file_bytes)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidFormError(
                f"The form cannot be read ({error}): send multipart/form-data."
            ) from error

    def finish(self) -> TextFields:
        """Return the text fields of the complete form.

        Raises:
            InvalidFormError: The body ended in the middle.
            MissingFileError: There was no part called ``file``.
            InvalidBucketError, InvalidMetadataError: The field is not UTF-8.
        """
        if not self._complete:
            raise InvalidFormError("The body ends before the form does: send it again.")
        if FILE not in self._names:
            raise MissingFileError("The form has no part called 'file': send the picture as one.")
        return TextFields(self._decode("bucket"), self._decode("metadata"))

    def _decode(self, name: str) -> str:
        try:
            return self._texts[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TEXT_FIELDS[name](
                f"{name} is not UTF-8 text ({error.reason}): encode it so."
            ) from error

    def _make_parser(self, content_type: str) -> MultipartParser:
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if media_type != b"multipart/form-data" or not boundary:
            raise InvalidFormError(
                f"Content-Type is {content_type[:80]!r}: send multipart/form-data with a boundary."
            )
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidFormError(
                f"The form's boundary cannot be used ({error}): choose a shorter one."
            ) from error

    def _begin_part(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise InvalidFormError(
                f"The form has more than {MAX_PARTS} parts: send file, bucket and metadata only."
            )
        self._part = Part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(part.header_value))
            name = options.get(b"name")
            part.name = None if name is None else name.decode("utf-8", "replace")
        part.header_name, part.header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        name = self._part.name
        if name is None:
            raise InvalidFormError(
                "A part of the form has no name: each needs a Content-Disposition header with one."
            )
        if name not in TEXT_FIELDS and name != FILE:
            return  # its data is skipped
        if name in self._names and name == FILE:
            raise TooManyFilesError(
                "The form has more than one part called 'file': send one picture per request."
            )
        if name in self._names:
            raise InvalidFormError(f"The form has more than one part called {name!r}: send one.")
        self._names.add(name)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        name = self._part.name
        if name == FILE:
            self._file_size += end - start
            if self._file_size > self._max_file_bytes:
                raise _too_large(self._max_file_bytes)
            self._write_file(memoryview(data)[start:end])
        elif name in TEXT_FIELDS:
            text = self._texts[name]
            text += data[start:end]
            if len(text) > MAX_FIELD_BYTES:
                error_class = TEXT_FIELDS[name]
                raise error_class(f"{name} is longer than {MAX_FIELD_BYTES} bytes: send less.")

    def _end(self) -> None:
        self._complete = True


def check_body_size(size_bytes: int, max_file_bytes: int) -> None:
    """Raise FileTooLargeError for a body that is too large to be a form around a permitted file."""
    if size_bytes > max_file_bytes + MARGIN_BYTES:
        raise _too_large(max_file_bytes)


def _too_large(max_file_bytes: int) -> FileTooLargeError:
    """Return the error for a file that is above the limit by an unknown amount."""
    return FileTooLargeError(
        f"The file has more than {max_file_bytes} bytes, the limit: "
        "send a smaller or more compressed one."
    )
