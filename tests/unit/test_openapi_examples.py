"""The OpenAPI document shows an example of everything, and every example is what its schema says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from alexq_producer.gateway import examples
from alexq_producer.gateway.app import create_app
from alexq_producer.gateway.core import Core
from alexq_schema.settings import Settings


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    settings = Settings.load(
        data_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/none.db", broker_url="redis://127.0.0.1:1"
    )
    return create_app(Core(settings)).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, of_path in document["paths"].items():
        for method, operation in of_path.items():
            yield f"{method} {path}", operation


def shown(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every parameter, body and answer, with its name: each has a schema and an example."""
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            yield f"{name} {parameter['name']}", parameter
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} body {kind}", content
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                yield f"{name} {status} {kind}", content


def test_everything_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    for name, part in shown(document):
        assert "example" in part, f"{name}: give it an example in gateway/examples.py"
        schema = part.get("schema", {"type": "string"})  # of a stream the document describes the items only
        validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
        told = [str(error) for error in validator.iter_errors(part["example"])]
        assert not told, f"{name}: {told}"


def test_every_operation_shows_an_answer_and_an_error(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        statuses = [status for status, response in operation["responses"].items() if "content" in response]
        assert any(status.startswith("2") for status in statuses) or "204" in operation["responses"], name
        assert "default" in statuses, name


def test_no_example_is_of_something_that_is_gone(document: dict[str, Any]) -> None:
    names = {operation["operationId"] for _, operation in operations(document)}
    parameters = {
        parameter["name"]
        for _, operation in operations(document)
        for parameter in operation.get("parameters", ())
    }

    assert {*examples.ANSWERS, *examples.ERRORS, *examples.BODIES} == names
    assert set(examples.PARAMETERS) == parameters
