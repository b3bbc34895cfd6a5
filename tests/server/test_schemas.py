from __future__ import annotations

import pytest
from pydantic import BaseModel

from imageprocessor.core.pipeline import process
from imageprocessor.core.variants import VariantSpec
from imageprocessor.server import schemas
from tests.images import encode, photo

MODELS = [
    found
    for found in vars(schemas).values()
    if isinstance(found, type) and issubclass(found, BaseModel) and found is not BaseModel
]
SHOWN = [model for model in MODELS if "examples" in model.model_json_schema()]


@pytest.mark.parametrize("model", SHOWN)
def test_example_matches_its_model(model: type[BaseModel]) -> None:
    [example] = model.model_json_schema()["examples"]
    assert model.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_bodies_in_the_specification_have_examples() -> None:
    assert {"UploadAccepted", "JobState", "ImageResult", "Statistics", "Problem"} <= {
        model.__name__ for model in SHOWN
    }


def test_result_schema_matches_the_pipelines_result() -> None:
    sizes = [VariantSpec("medium", formats=("webp", "png"))]
    described = process(encode(photo(40, 30), "JPEG"), sizes).describe()
    described["variants"]["medium"]["alternates"][0]["url"] = "/storage/…"
    model = schemas.ImageMetadata
    assert set(described) == set(model.model_fields)
    of_animations = {"frames", "duration_seconds"}
    fields = set(schemas.VariantMetadata.model_fields) - of_animations
    assert set(described["variants"]["medium"]) == fields
    [alternate] = described["variants"]["medium"]["alternates"]
    assert set(alternate) == set(schemas.Alternate.model_fields) - of_animations
    assert set(described["original_dimensions"]) == set(schemas.Dimensions.model_fields)
    validated = model.model_validate(described, strict=True)
    assert validated.model_dump(exclude_unset=True) == described
