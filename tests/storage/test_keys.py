from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageprocessor.errors import InvalidBucketError, InvalidKeyError
from imageprocessor.storage.keys import (
    MAX_KEY_CHARACTERS,
    check_bucket,
    check_key,
    image_id_of,
    is_key,
    staging_key,
    variant_key,
)

text_near_keys = st.one_of(st.text(), st.text(alphabet="ab/.-_\0 ~é\\\n", max_size=30))


@pytest.mark.parametrize("name", ["ab", "a1", "1-2", "profile-pictures", "a" * 63])
def test_valid_bucket_name_is_returned(name: str) -> None:
    assert check_bucket(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "-ab", "Ab", "a_b", "a.b", "a/b", "ab\n", "ä1", "a" * 64, "٣٣"]
)
def test_invalid_bucket_name_is_refused_and_quoted(name: str) -> None:
    with pytest.raises(InvalidBucketError) as caught:
        check_bucket(name)
    assert repr(name)[:60] in str(caught.value)


@pytest.mark.parametrize("check", [check_bucket, check_key])
def test_a_long_value_is_shortened_in_the_message(check: object) -> None:
    assert callable(check)
    with pytest.raises((InvalidBucketError, InvalidKeyError)) as caught:
        check("x" * 100_000)
    assert len(str(caught.value)) < 400


@given(text_near_keys)
def test_accepted_key_is_a_safe_relative_path(
    key: str,
) -> None:
    if is_key(key):
        path = PurePosixPath("/root") / key
        assert str(path) == f"/root/{key}"
        assert not any(part.startswith(".") for part in path.parts)
        assert quote(key) == key
        assert len(key) <= MAX_KEY_CHARACTERS
    else:
        with pytest.raises(InvalidKeyError):
            check_key(key)


@given(st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,40}\Z"), min_size=1, max_size=20))
def test_names_joined_by_slashes_are_a_key(names: list[str]) -> None:
    key = "/".join(names)
    assert check_key(key) == key


@given(st.from_regex(r"\A[a-z0-9][a-z0-9-]{1,62}\Z"), st.uuids())
def test_variant_key_contains_bucket_size_and_image(bucket: str, image_id: object) -> None:
    key = variant_key(bucket, "thumbnail", str(image_id))
    assert key == f"{bucket}/processed/thumbnail/{image_id}_thumbnail.webp"


@pytest.mark.parametrize(
    ("output", "suffix"), [("avif", "avif"), ("webp", "webp"), ("jpeg", "jpg"), ("png", "png")]
)
def test_variant_key_ends_with_the_suffix_of_its_format(output: str, suffix: str) -> None:
    image_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    key = variant_key("avatars", "medium", image_id, output)
    assert key == f"avatars/processed/medium/{image_id}_medium.{suffix}"
    assert image_id_of(key) == image_id


@pytest.mark.parametrize(
    ("size", "image_id"), [("a/b", "1"), ("..", "1"), ("", "1"), ("a", "../1"), ("a", "")]
)
def test_variant_key_refuses_bad_names(size: str, image_id: str) -> None:
    with pytest.raises(InvalidKeyError):
        variant_key("avatars", size, image_id)


def test_variant_key_refuses_a_bad_bucket() -> None:
    with pytest.raises(InvalidBucketError):
        variant_key("a/../b", "medium", "1")


@pytest.mark.parametrize("job_id", ["", "../1", "a/b"])
def test_staging_key_refuses_a_bad_job_id(job_id: str) -> None:
    assert staging_key("photos", "9b2f") == "photos/9b2f"
    with pytest.raises(InvalidKeyError):
        staging_key("photos", job_id)


@given(st.from_regex(r"\A[a-z0-9][a-z0-9-]{1,62}\Z"), st.uuids())
def test_image_id_is_read_from_a_variant_key(bucket: str, image_id: object) -> None:
    assert image_id_of(variant_key(bucket, "medium", str(image_id))) == str(image_id)


@pytest.mark.parametrize(
    "key",
    [
        "1",
        "avatars/processed/medium/backup_medium.webp",
        "avatars/processed/medium/0f8fad5b-d9cb-469f-a165-70867728950e_large.webp",
        "avatars/other/medium/0f8fad5b-d9cb-469f-a165-70867728950e_medium.webp",
        "avatars/processed/medium/0f8fad5b-d9cb-469f-a165-70867728950e_medium.webp.bak",
        "avatars/processed/medium/0f8fad5b-d9cb-469f-a165-70867728950e_medium.gif",
    ],
)
def test_other_keys_have_no_image_id(key: str) -> None:
    assert image_id_of(key) is None
