from __future__ import annotations

import pytest
from pydantic import BaseModel

from imageprocessor.server import schemas

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
