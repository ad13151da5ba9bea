"""Messages of unknown version or shape are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from alexq_schema.errors import MessageError
from alexq_schema.ids import new_id
from alexq_schema.messages import ClassifyImage, ClassifyJobs


def test_a_message_survives_the_wire() -> None:
    message = ClassifyJobs(job_ids=[new_id(), new_id()])

    assert ClassifyJobs.parse(message.model_dump(mode="json")) == message


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "job_ids"),
        ({"job_ids": []}, "job_ids"),
        ({"job_ids": ["no id"]}, "job_ids.0"),
        ({"job_ids": [str(new_id())], "version": 2}, "version"),
        ({"job_ids": [str(new_id())], "color": "red"}, "color"),
        ({"job_ids": [str(new_id())] * 5_000}, "job_ids"),
    ],
)
def test_a_message_of_unknown_version_or_shape_is_refused(body: dict[str, Any], named: str) -> None:
    with pytest.raises(MessageError, match=named):
        ClassifyJobs.parse(body)


@pytest.mark.parametrize("key", ["../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_an_image_key_never_leaves_the_store(key: str) -> None:
    with pytest.raises(MessageError, match="image_key"):
        ClassifyImage.parse({"image_key": key})


def test_an_image_comes_once() -> None:
    with pytest.raises(MessageError, match="not both"):
        ClassifyImage.parse({"image_key": "a" * 64, "image_base64": "aGk="})
