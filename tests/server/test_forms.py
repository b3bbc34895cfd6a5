from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.errors import (
    FileTooLargeError,
    ImageProcessorError,
    InvalidBucketError,
    InvalidFormError,
    InvalidMetadataError,
    MissingFileError,
    TooManyFilesError,
)
from imageprocessor.server.forms import (
    MARGIN_BYTES,
    MAX_FIELD_BYTES,
    MAX_PARTS,
    MAX_PREAMBLE_BYTES,
    TextFields,
    UploadForm,
    check_body_size,
)

TYPE = "multipart/form-data; boundary=b"
MAX_BYTES = 1000


def part(name: str, value: bytes, more: str = "") -> bytes:
    return (
        f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


END = b"--b--\r\n"
FILE = part("file", b"\r\n--bytes\r\n", '; filename="../../etc/passwd"')
WHOLE = part("bucket", b"photos") + FILE + part("metadata", '{"ü": 1}'.encode()) + END
# RFC 2046, 5.1.1: text before the first boundary and after the last, spaces after each.
PREAMBLE = b"This is a multipart message.\r\n--\r\n --b\r\n-\r\n"
EPILOGUE = b" \t\r\nThe end.\r\n--b\r\nMore: text\r\n\r\nx"
LONG = PREAMBLE + WHOLE.replace(b"--b\r\n", b"--b \t \r\n") + EPILOGUE


def read(body: bytes, chunk_bytes: int = 65_536) -> tuple[TextFields, bytes]:
    """Return the text fields and the file of the form in *body*."""
    file = bytearray()
    form = UploadForm(TYPE, MAX_BYTES, file.extend)
    for start in range(0, len(body), chunk_bytes):
        form.feed(body[start : start + chunk_bytes])
    return form.finish(), bytes(file)


@pytest.mark.parametrize("body", [WHOLE, LONG], ids=["plain", "with all that RFC 2046 allows"])
@given(chunk_bytes=st.integers(1, len(LONG)))
def test_form_reads_the_same_in_chunks_of_any_size(body: bytes, chunk_bytes: int) -> None:
    fields, file = read(body, chunk_bytes)
    assert file == b"\r\n--bytes\r\n"
    assert fields == ("photos", '{"ü": 1}', "")


def test_file_bytes_are_written_once_as_they_arrive() -> None:
    file = bytearray()
    form = UploadForm(TYPE, MAX_BYTES, file.extend)
    before, found, after = WHOLE.partition(b"--bytes")
    form.feed(before + found)
    assert b"\r\n--bytes".startswith(file)
    assert file
    form.feed(after)
    assert file == b"\r\n--bytes\r\n"


def test_unknown_field_is_ignored() -> None:
    fields, file = read(part("other", b"x" * MARGIN_BYTES)[: MARGIN_BYTES - 500] + b"\r\n" + WHOLE)
    assert fields.bucket == "photos"
    assert b"x" not in file


def test_a_part_with_an_empty_name_is_an_unknown_field() -> None:
    assert read(part("", b"x") + WHOLE)[0].bucket == "photos"


def test_missing_metadata_is_empty() -> None:
    assert read(part("bucket", b"photos") + FILE + END)[0].metadata == ""


def test_empty_bucket_is_a_part_that_was_sent() -> None:
    assert read(part("bucket", b"") + FILE + END)[0].bucket == ""


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (part("bucket", b"photos") + part("image", b"x"), "'file'"),
        (FILE + part("Bucket", b"photos"), "'bucket'"),
    ],
)
def test_missing_part_is_named(body: bytes, missing: str) -> None:
    with pytest.raises(ImageProcessorError, match=f"no part called {missing}"):
        read(body + END)


@pytest.mark.parametrize("body", [b"--other\r\n\r\n", b"{}", b"x" * (MAX_PREAMBLE_BYTES + 1)])
def test_body_without_the_boundary_says_so(body: bytes) -> None:
    with pytest.raises(InvalidFormError, match="No line of the body is '--b'"):
        read(body)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (part("bucket", b"photos") + END, MissingFileError),
        (END, MissingFileError),
        (FILE + END, InvalidBucketError),
        (part("metadata", b"{}") + FILE + END, InvalidBucketError),
        (FILE + FILE + END, TooManyFilesError),
        (FILE + part("bucket", b"a") + part("bucket", b"b") + END, InvalidFormError),
        (FILE + part("note", b"") * MAX_PARTS + END, InvalidFormError),
        (part("file", b"x" * (MAX_BYTES + 1)) + END, FileTooLargeError),
        (part("other", b"x" * (MAX_BYTES + MARGIN_BYTES)) + END, FileTooLargeError),
        (part("metadata", b"x" * (MAX_FIELD_BYTES + 1)) + END, InvalidMetadataError),
        (part("bucket", b"x" * (MAX_FIELD_BYTES + 1)) + END, InvalidBucketError),
        (b"--b\r\n\r\nno headers\r\n" + END, InvalidFormError),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nno name\r\n" + END, InvalidFormError),
        (b"--b\r\nBad Header: x\r\n\r\n\r\n" + END, InvalidFormError),
        (FILE + b"--b x" + WHOLE, InvalidFormError),
        (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\n\r\n" + END, InvalidFormError),
        (b"--b\r\nX: " + b"y" * 60_000 + b"\r\n\r\n\r\n" + END, InvalidFormError),
        (b"--other\r\n\r\n", InvalidFormError),
        (b"{}", InvalidFormError),
        (b"", InvalidFormError),
        (WHOLE[: -len(END)], InvalidFormError),
        (WHOLE[:60], InvalidFormError),
    ],
)
def test_invalid_form_raises_the_matching_error(
    body: bytes, error: type[ImageProcessorError]
) -> None:
    with pytest.raises(error):
        read(body)


def test_file_of_exactly_the_limit_is_accepted() -> None:
    body = part("bucket", b"photos") + part("file", b"x" * MAX_BYTES) + END
    assert read(body)[1] == b"x" * MAX_BYTES


@pytest.mark.parametrize(
    ("name", "error"), [("bucket", InvalidBucketError), ("metadata", InvalidMetadataError)]
)
def test_field_that_is_not_utf8_raises_its_own_error(
    name: str, error: type[ImageProcessorError]
) -> None:
    body = WHOLE.replace(b"photos" if name == "bucket" else b'{"\xc3\xbc": 1}', b"\xff\xfe")
    with pytest.raises(error, match="UTF-8"):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=b",
        f"multipart/form-data; boundary={'b' * 300}",
    ],
)
def test_other_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidFormError):
        UploadForm(content_type, MAX_BYTES, bytearray().extend)


def test_preamble_counts_towards_the_limit() -> None:
    form = UploadForm(TYPE, MAX_BYTES, bytearray().extend)
    form.feed(b"\r\n" * 32_768)
    with pytest.raises(FileTooLargeError):
        form.feed(b"\r\n" * 32_768)


def test_body_may_exceed_the_file_limit_by_the_margin() -> None:
    check_body_size(MAX_BYTES + MARGIN_BYTES, MAX_BYTES)
    with pytest.raises(FileTooLargeError, match=str(MAX_BYTES)):
        check_body_size(MAX_BYTES + MARGIN_BYTES + 1, MAX_BYTES)
