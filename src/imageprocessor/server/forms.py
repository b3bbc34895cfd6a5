"""The upload's form, read as it streams in.

Two bounded text fields, and the bytes of one file, which are passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
FIELDS: dict[str, type[RequestError]] = {
    "bucket": InvalidBucketError,
    "metadata": InvalidMetadataError,
}


@dataclass(slots=True)
class Part:
    """The part of the form that is being read."""

    name: str | None = None
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)


class UploadForm:
    """Reads ``multipart/form-data``.

    ``feed`` it the body, take ``file_bytes`` now and then, ``finish`` it.

    Raises:
        InvalidFormError: *content_type* is not that of such a form, or has no boundary.
    """

    def __init__(self, content_type: str, max_file_bytes: int) -> None:
        self.file_bytes = bytearray()
        self._max_file_bytes = max_file_bytes
        self._body_size = 0
        self.file_size = 0
        self._fields: dict[str, bytearray] = {}  # by name, those that came; the file's stays empty
        self._part = Part()
        self._part_count = 0
        self._complete = False
        self._parser = _make_parser(self, content_type)

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the body.

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

    def take_file_bytes(self) -> bytearray:
        """Return what came of the file since the last call."""
        taken, self.file_bytes = self.file_bytes, bytearray()
        return taken

    def finish(self) -> None:
        """Check that all of the form has come.

        Raises:
            InvalidFormError: The body ended in the middle.
            MissingFileError: There was no part called ``file``.
        """
        if not self._complete:
            raise InvalidFormError("The body ends before the form does: send it again.")
        if FILE not in self._fields:
            raise MissingFileError("The form has no part called 'file': send the picture as one.")

    def text(self, name: str) -> str:
        """Return the text field *name*, empty where it did not come.

        Raises:
            InvalidBucketError, InvalidMetadataError: It is not UTF-8.
        """
        try:
            return self._fields.get(name, b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise FIELDS[name](
                f"{name} is not UTF-8 text ({error.reason}): encode it so."
            ) from error

    def begin_part(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise InvalidFormError(
                f"The form has more than {MAX_PARTS} parts: send file, bucket and metadata only."
            )
        self._part = Part()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def end_header(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            options = parse_options_header(bytes(part.header_value))[1]
            part.name = options[b"name"].decode("utf-8", "replace") if b"name" in options else None
        part.header_name, part.header_value = bytearray(), bytearray()

    def end_headers(self) -> None:
        name = self._part.name
        if name is None:
            raise InvalidFormError(
                "A part of the form has no name: each needs a Content-Disposition header with one."
            )
        if name in self._fields and name == FILE:
            raise TooManyFilesError(
                "The form has more than one part called 'file': send one picture per request."
            )
        if name in self._fields:
            raise InvalidFormError(f"The form has more than one part called {name!r}: send one.")
        if name in FIELDS or name == FILE:
            self._fields[name] = bytearray()

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == FILE:
            self._add_file_bytes(data, start, end)
        elif self._part.name in FIELDS:
            self._add_text(self._part.name, data, start, end)

    def end(self) -> None:
        self._complete = True

    def _add_file_bytes(self, data: bytes, start: int, end: int) -> None:
        self.file_size += end - start
        if self.file_size > self._max_file_bytes:
            raise _too_large(self._max_file_bytes)
        self.file_bytes += memoryview(data)[start:end]

    def _add_text(self, name: str, data: bytes, start: int, end: int) -> None:
        value = self._fields[name]
        value += data[start:end]
        if len(value) > MAX_FIELD_BYTES:
            raise FIELDS[name](f"{name} is longer than {MAX_FIELD_BYTES} bytes: send less.")


def check_body_size(size_bytes: int, max_file_bytes: int) -> None:
    """Raise FileTooLargeError for a body that is too large to be a form around a permitted file."""
    if size_bytes > max_file_bytes + MARGIN_BYTES:
        raise _too_large(max_file_bytes)


def _too_large(max_file_bytes: int) -> FileTooLargeError:
    """Return the error for a file that is above the limit by an unknown amount."""
    return FileTooLargeError(
        f"The file has more than {max_file_bytes} bytes, the limit: send a smaller or more compressed one."
    )


def _make_parser(form: UploadForm, content_type: str) -> MultipartParser:
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
                "on_part_begin": form.begin_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_end": form.end,
            },
        )
    except FormParserError as error:
        raise InvalidFormError(
            f"The form's boundary cannot be used ({error}): choose a shorter one."
        ) from error
