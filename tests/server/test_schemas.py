from __future__ import annotations

import pytest
from pydantic import BaseModel

from imageprocessor.core.pipeline import process
from imageprocessor.server import schemas
from tests.images import encode, photo

MODELS = [
    found
    for found in vars(schemas).values()
    if isinstance(found, type) and issubclass(found, BaseModel) and found is not BaseModel
]
SHOWN = [model for model in MODELS if "examples" in model.model_json_schema()]


@pytest.mark.parametrize("model", SHOWN)
def test_an_example_is_an_answer_that_can_be_given(model: type[BaseModel]) -> None:
    [example] = model.model_json_schema()["examples"]
    assert model.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_the_bodies_of_the_specification_have_examples() -> None:
    assert {"UploadAccepted", "JobState", "ImageResult", "Statistics", "Problem"} <= {
        model.__name__ for model in SHOWN
    }


def test_the_schema_of_a_result_has_the_fields_of_a_result_and_their_types() -> None:
    described = process(encode(photo(40, 30), "JPEG")).describe()
    model = schemas.ImageMetadata
    assert set(described) == set(model.model_fields)
    assert set(described["variants"]["medium"]) == set(schemas.VariantMetadata.model_fields)
    assert set(described["original_dimensions"]) == set(schemas.Dimensions.model_fields)
    assert model.model_validate(described, strict=True).model_dump() == described
