"""The OpenAPI document: complete by hand-written rules, and true by generated requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from quota.policy import parse_policy
from scheduler.apply import LEASE
from store import lease
from store.engine import transaction
from tests.api.conftest import World

METHODS = {"get", "post", "put", "delete"}
EXAMPLES = 4
"""Requests per operation: the whole stays under half a minute; the nightly run is free to raise it."""


@pytest.fixture
def document(bare: World) -> Any:
    return bare.call(None, "GET", "/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield path, method, operation


def test_every_operation_says_what_it_is_and_what_can_go_wrong(document: Any) -> None:
    found = list(operations(document))
    names = [operation["operationId"] for _, _, operation in found]
    assert len(names) == len(set(names)) > 35
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, operation in found:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert set(operation["tags"]) <= tags, where
        if not path.startswith("/v1"):
            continue
        for status in ("422", "500", "503", *(["401"] if operation.get("security") else [])):
            content = operation["responses"][status]["content"]
            assert content == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }, where
        if "requestBody" in operation:
            assert {"413", "415"} <= set(operation["responses"]), where


def test_only_the_public_addresses_need_no_token(document: Any) -> None:
    open_to_all = {path for path, _, operation in operations(document) if not operation.get("security")}
    assert open_to_all == {
        "/v1/public/overview",
        "/v1/public/open-data",
        "/v1/public/open-data.csv",
        "/v1/public/open-data/schema",
        "/healthz",
        "/readyz",
        "/metrics",
    }


def test_every_reference_leads_somewhere(document: Any) -> None:
    schemas = document["components"]["schemas"]

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    wanted = {reference.rpartition("/")[2] for reference in references(document)}
    assert wanted <= set(schemas)
    assert "HTTPValidationError" not in schemas


def test_every_object_has_an_example_that_holds_to_its_schema(document: Any) -> None:
    schemas = document["components"]["schemas"]
    objects = [name for name, schema in schemas.items() if schema.get("type") == "object"]
    assert sorted(name for name in objects if "example" not in schemas[name]) == []
    assert len(objects) > 50
    rooted = {"components": {"schemas": schemas}}
    for name in objects:
        schema = rooted | {"$ref": f"#/components/schemas/{name}"}
        check = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        assert [error.message for error in check.iter_errors(schemas[name]["example"])] == [], name
        # An example shows every field of an answer, and only fields that there are.
        shown, known = set(schemas[name]["example"]), set(schemas[name]["properties"])
        assert shown == known if name.endswith("Out") else shown <= known, name


def test_every_body_and_answer_is_an_object_with_an_example_or_a_text(document: Any) -> None:
    for path, method, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media, content in ((m, c) for body in bodies for m, c in body.get("content", {}).items()):
            if "json" in media:
                schema = content["schema"]
                name = schema.get("$ref", "").rpartition("/")[2]
                found = document["components"]["schemas"][name] if name else content
                assert found["example"], f"{method} {path}"


def test_the_example_of_a_policy_is_one(document: Any) -> None:
    content = document["paths"]["/v1/policies"]["post"]["requestBody"]["content"]["application/json"]
    Draft202012Validator(content["schema"]).validate(content["example"])
    assert parse_policy(content["example"]).version == "2026-1"


schemathesis.serializer.alias("application/gzip", "application/octet-stream")

CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_generated_requests_get_the_answers_the_document_promises(world: World) -> None:
    world.run(world.job().json()["id"])
    with transaction(world.engine) as session:
        lease.acquire(session, LEASE, "test", at=world.clock.at, ttl_s=300)
    schema = schemathesis.openapi.from_dict(world.call(None, "GET", "/openapi.json").json())
    headers = {"Authorization": f"Bearer {world.tokens['operator']}"}
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=st.one_of(
                operation.as_strategy(),
                operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
            )
        )
        def once(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(base_url=str(world.client.base_url), headers=headers, checks=CHECKED)

        once()
    assert tried > 100
