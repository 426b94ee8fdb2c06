"""The description of the API: complete, free of warnings, readable without the internet."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from django.contrib.staticfiles import finders
from django.core.management import call_command
from rest_framework.test import APIClient

from config.api import router


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("schema") / "schema.yml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    described: dict[str, Any] = yaml.safe_load(path.read_text())
    return described


def test_every_resource_is_described(schema: dict[str, Any]) -> None:
    for prefix, _, _ in router.registry:
        assert f"/api/v1/{prefix}/" in schema["paths"]


def test_every_operation_tells_its_problems_and_its_key(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            for status in ["400", "401", "403", "429"] + (["404"] if "{" in path else []):
                content = operation["responses"][status]["content"]
                assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
            assert operation["security"] == [{"apiKey": []}]
            headers = [p["name"] for p in operation.get("parameters", []) if p["in"] == "header"]
            kept = method == "post" and not path.endswith("/provider-tokens/{id}/check/")
            assert ("Idempotency-Key" in headers) == kept, (path, method)


def test_schema_and_docs_are_open_and_need_no_internet(db: None) -> None:
    client = APIClient()
    assert client.get("/api/schema/").status_code == 200
    page = client.get("/api/docs/")
    assert page.status_code == 200
    text = page.content.decode()
    assets = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert assets
    for asset in assets:
        assert asset.startswith("/static/"), asset
        assert finders.find(asset.removeprefix("/static/")), asset
