"""Parsing the form of an upload as it arrives: files, and text fields of limited length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from imageprocessor.errors import (
    BatchTooLargeError,
    FileTooLargeError,
    ImageProcessorError,
    InvalidBucketError,
    InvalidFormError,
    InvalidItemsError,
    InvalidMetadataError,
    MissingFileError,
    RequestError,
    TooManyFilesError,
    UnknownWebhookError,
)

MARGIN_BYTES = 64 * 1024  #: allowed in a body in addition to a file
MORE_PARTS = 15  #: allowed in a form in addition to its files
MAX_FIELD_BYTES = 32 * 1024
MAX_PREAMBLE_BYTES = 64 * 1024  #: in front of the first part
FILE = "file"
BATCH_FILES = ("file", "files", "files[]")
TEXT_FIELDS: dict[str, type[RequestError]] = {
    "bucket": InvalidBucketError,
    "metadata": InvalidMetadataError,
    "webhook": UnknownWebhookError,
}

WriteFile = Callable[[memoryview], None]


class TextFields(NamedTuple):
    """The form's text fields; those that were not sent are empty."""

    bucket: str
    metadata: str = ""
    webhook: str = ""
    items: str = ""  #: of a batch


class UploadRules:
    """What the form of an upload may contain: one file of at most *max_bytes*."""

    file_names: tuple[str, ...] = (FILE,)
    text_fields: Mapping[str, type[RequestError]] = TEXT_FIELDS
    requires_bucket = True
    max_files = 1

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes  #: of all files together

    def check_body_size(self, size_bytes: int) -> None:
        """Raise an error if a body is too large even for a form with the largest files."""
        if size_bytes > self.max_bytes + self.max_files * MARGIN_BYTES:
            raise self.make_size_error()

    def make_size_error(self) -> ImageProcessorError:
        """Return the error for files that exceed the limit by an unknown amount."""
        return FileTooLargeError(
            f"The file is larger than the limit of {self.max_bytes} bytes. "
            "Send a smaller or more compressed one."
        )

    def make_count_error(self) -> ImageProcessorError:
        """Return the error for a form with too many files."""
        return TooManyFilesError(
            "The form has more than one part called 'file'. Send one image per request."
        )


class TicketRules(UploadRules):
    """What the form of an upload with a ticket may contain: the ticket has the other fields."""

    text_fields: Mapping[str, type[RequestError]] = {"bucket": InvalidBucketError}
    requires_bucket = False


class BatchRules(UploadRules):
    """What the form of a batch may contain: *max_files*, together of at most *max_bytes*."""

    file_names = BATCH_FILES
    text_fields: Mapping[str, type[RequestError]] = {**TEXT_FIELDS, "items": InvalidItemsError}

    def __init__(self, max_files: int, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.max_files = max_files

    def make_size_error(self) -> ImageProcessorError:
        return BatchTooLargeError(
            f"The files are larger than the limit of {self.max_bytes} bytes in all. "
            "Send fewer files in one batch."
        )

    def make_count_error(self) -> ImageProcessorError:
        return BatchTooLargeError(
            f"The form has more than {self.max_files} files. Send fewer files in one batch."
        )


@dataclass(slots=True)
class Part:
    """The part of the form that is being parsed."""

    name: str | None = None
    filename: str | None = None
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)


class UploadForm:
    """A ``multipart/form-data`` parser: :meth:`feed` it the body, then call :meth:`finish`.

    *begin_file* is called with the name of each file, None if it has none, as the client sent it.
    It returns a function that receives each chunk of the file and must copy what it keeps.

    Raises:
        InvalidFormError: *content_type* is not ``multipart/form-data`` with a usable boundary.
    """

    def __init__(
        self,
        content_type: str,
        rules: UploadRules,
        begin_file: Callable[[str | None], WriteFile],
    ) -> None:
        self._rules = rules
        self._begin_file = begin_file
        self._write_file: WriteFile | None = None  # set while the part is a file
        self._body_size = 0
        self._file_count = 0
        self._files_size = 0
        self._texts: dict[str, bytearray] = {}  # received so far
        self._part = Part()
        self._part_count = 0
        self._complete = False
        self._boundary = find_boundary(content_type)
        self._preamble: bytes | None = b"\r\n"  # None after the first boundary
        self._parser = self._make_parser()

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            FileTooLargeError, BatchTooLargeError: The files, or the body as a whole, exceed the
                limit.
            InvalidFormError: The form is malformed, has too many parts, or repeats a field.
            TooManyFilesError, BatchTooLargeError: The form has too many files.
            InvalidBucketError, InvalidMetadataError, InvalidItemsError, UnknownWebhookError: The
                field is too long.
        """
        self._body_size += len(chunk)
        self._rules.check_body_size(self._body_size)
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
            MissingFileError: The form has no file.
            InvalidBucketError: The form has no part called ``bucket``, or it is not valid UTF-8.
            InvalidMetadataError, InvalidItemsError, UnknownWebhookError: The field is not valid
                UTF-8.
        """
        if self._preamble is not None:
            raise self._no_boundary()
        if not self._complete:
            raise InvalidFormError("The body ends before the form does. Send the form again.")
        if self._file_count == 0:
            raise MissingFileError("The form has no part called 'file'. Send the image as 'file'.")
        if self._rules.requires_bucket and "bucket" not in self._texts:
            raise InvalidBucketError(
                "The form has no part called 'bucket'. Send the name of the image's bucket."
            )
        return TextFields(**{name: self._decode(name) for name in self._rules.text_fields})

    def _decode(self, name: str) -> str:
        try:
            return self._texts.get(name, b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._rules.text_fields[name](
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
        max_parts = self._rules.max_files + MORE_PARTS
        if self._part_count > max_parts:
            fields = ", ".join([FILE, *self._rules.text_fields])
            raise InvalidFormError(f"The form has more than {max_parts} parts. Send only {fields}.")
        self._part = Part()
        self._write_file = None

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(part.header_value))
            part.name = _decode_option(options.get(b"name"))
            part.filename = _decode_option(options.get(b"filename"))
        part.header_name, part.header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        name = self._part.name
        if name is None:
            raise InvalidFormError(
                "A part of the form has no name. Give each a Content-Disposition header with one."
            )
        if name in self._rules.file_names:
            self._file_count += 1
            if self._file_count > self._rules.max_files:
                raise self._rules.make_count_error()
            self._write_file = self._begin_file(self._part.filename)
        elif name in self._texts:
            raise InvalidFormError(f"The form has more than one part called {name!r}. Send one.")
        elif name in self._rules.text_fields:
            self._texts[name] = bytearray()
        # The data of any other part is ignored.

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        name = self._part.name
        if self._write_file:
            self._files_size += end - start
            if self._files_size > self._rules.max_bytes:
                raise self._rules.make_size_error()
            self._write_file(memoryview(data)[start:end])
        elif name in self._texts:
            text = self._texts[name]
            text += data[start:end]
            # `items` has a field's worth of text for each file.
            limit = MAX_FIELD_BYTES * (self._rules.max_files if name == "items" else 1)
            if len(text) > limit:
                error_class = self._rules.text_fields[name]
                raise error_class(f"{name} is longer than {limit} bytes. Shorten it.")

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


def _decode_option(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
