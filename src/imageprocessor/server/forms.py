"""Parsing an upload's form as it arrives: one file and some text fields of limited length."""

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
    UnknownWebhookError,
)

MARGIN_BYTES = 64 * 1024  #: allowed in a body in addition to the file
MAX_PARTS = 16
MAX_FIELD_BYTES = 32 * 1024
MAX_PREAMBLE_BYTES = 64 * 1024  #: in front of the first part
FILE = "file"
TEXT_FIELDS: dict[str, type[RequestError]] = {
    "bucket": InvalidBucketError,
    "metadata": InvalidMetadataError,
    "webhook": UnknownWebhookError,
}


class TextFields(NamedTuple):
    """The form's text fields; those that were not sent are empty."""

    bucket: str
    metadata: str
    webhook: str


@dataclass(slots=True)
class Part:
    """The part of the form that is being parsed."""

    name: str | None = None
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)


class UploadForm:
    """A ``multipart/form-data`` parser: :meth:`feed` it the body, then call :meth:`finish`.

    *write_file* receives each chunk of the file and must copy what it keeps.

    Raises:
        InvalidFormError: *content_type* is not ``multipart/form-data`` with a usable boundary.
    """

    def __init__(
        self, content_type: str, max_file_bytes: int, write_file: Callable[[memoryview], None]
    ) -> None:
        self._max_file_bytes = max_file_bytes
        self._write_file = write_file
        self._body_size = 0
        self._file_size = 0
        self._names: set[str] = set()  # known parts received so far
        self._texts = {name: bytearray() for name in TEXT_FIELDS}
        self._part = Part()
        self._part_count = 0
        self._complete = False
        self._boundary = find_boundary(content_type)
        self._preamble: bytes | None = b"\r\n"  # None after the first boundary
        self._parser = self._make_parser()

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            FileTooLargeError: The file, or the body as a whole, exceeds its limit.
            InvalidFormError: The form is malformed, has too many parts, or repeats a field.
            TooManyFilesError: The form has more than one file.
            InvalidBucketError, InvalidMetadataError, UnknownWebhookError: The field is too long.
        """
        self._body_size += len(chunk)
        check_body_size(self._body_size, self._max_file_bytes)
        if self._preamble is not None:
            chunk = self._skip_preamble(self._preamble + chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidFormError(
                f"The form is malformed ({error}). Send valid multipart/form-data."
            ) from error

    def finish(self) -> TextFields:
        """Return the text fields of the complete form.

        Raises:
            InvalidFormError: The body ended before the form did.
            MissingFileError: The form has no part called ``file``.
            InvalidBucketError: The form has no part called ``bucket``, or it is not valid UTF-8.
            InvalidMetadataError, UnknownWebhookError: The field is not valid UTF-8.
        """
        if self._preamble is not None:
            raise self._no_boundary()
        if not self._complete:
            raise InvalidFormError("The body ends before the form does. Send the form again.")
        if FILE not in self._names:
            raise MissingFileError("The form has no part called 'file'. Send the image as 'file'.")
        if "bucket" not in self._names:
            raise InvalidBucketError(
                "The form has no part called 'bucket'. Send the name of the image's bucket."
            )
        return TextFields(*map(self._decode, TextFields._fields))

    def _decode(self, name: str) -> str:
        try:
            return self._texts[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TEXT_FIELDS[name](
                f"{name} is not valid UTF-8 ({error.reason}). Encode it as UTF-8."
            ) from error

    def _skip_preamble(self, received: bytes) -> bytes:
        """Return *received* from the first boundary on, or nothing before that is complete.

        The parser allows neither text in front of the first boundary nor spaces behind it.
        """
        _, found, after = received.partition(b"\r\n--" + self._boundary)
        after = after.lstrip(b" \t")
        if found and after.startswith((b"\r\n", b"--")):
            self._preamble = None
            self._parser.write(b"--" + self._boundary)
            return after
        if self._body_size > MAX_PREAMBLE_BYTES:
            raise self._no_boundary()
        self._preamble = received
        return b""

    def _no_boundary(self) -> InvalidFormError:
        boundary = self._boundary.decode("latin-1")
        return InvalidFormError(
            f"No line of the body is '--{boundary}', the boundary in Content-Type. "
            "Let your HTTP client set Content-Type."
        )

    def _make_parser(self) -> MultipartParser:
        try:
            return MultipartParser(
                self._boundary,
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
                f"The form's boundary is not usable ({error}). Choose a shorter one."
            ) from error

    def _begin_part(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise InvalidFormError(
                f"The form has more than {MAX_PARTS} parts. "
                "Send only file, bucket, metadata and webhook."
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
                "A part of the form has no name. Give each a Content-Disposition header with one."
            )
        if name not in TEXT_FIELDS and name != FILE:
            return  # its data is ignored
        if name in self._names and name == FILE:
            raise TooManyFilesError(
                "The form has more than one part called 'file'. Send one image per request."
            )
        if name in self._names:
            raise InvalidFormError(f"The form has more than one part called {name!r}. Send one.")
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
                raise error_class(f"{name} is longer than {MAX_FIELD_BYTES} bytes. Shorten it.")

    def _end(self) -> None:
        self._complete = True


def find_boundary(content_type: str) -> bytes:
    """Return the boundary of a form.

    Raises:
        InvalidFormError: *content_type* is not ``multipart/form-data`` with a boundary.
    """
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise InvalidFormError(
            f"Content-Type is {content_type[:80]!r}. Send multipart/form-data with a boundary."
        )
    return boundary


def check_body_size(size_bytes: int, max_file_bytes: int) -> None:
    """Raise FileTooLargeError if a body is too large even for a form with the largest file."""
    if size_bytes > max_file_bytes + MARGIN_BYTES:
        raise _too_large(max_file_bytes)


def _too_large(max_file_bytes: int) -> FileTooLargeError:
    """Return the error for a file that exceeds the limit by an unknown amount."""
    return FileTooLargeError(
        f"The file is larger than the limit of {max_file_bytes} bytes. "
        "Send a smaller or more compressed one."
    )
