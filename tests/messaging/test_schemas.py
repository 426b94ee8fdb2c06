"""What a JSON column may hold: the same in actions, API and admin, and its kind in the database."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from campaigns.actions import save_contact
from campaigns.models import Contact, Segment
from messaging.actions import create_template, update_broadcast, update_template
from messaging.models import MessageTemplate
from messaging.schemas import audience_of, components_of, variables_of
from tenants.actions import add_member, create_api_key
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories
from tests.messaging.build import make_broadcast, make_contacts, make_template

TEXT = {"type": "text", "text": "Spring"}
GOOD_COMPONENTS: list[list[Any]] = [
    [],
    [{"type": "header", "parameters": [TEXT]}],
    [{"type": "header", "parameters": [{"type": "image", "image": {"id": "17"}}]}],
    [{"type": "button", "sub_type": "url", "index": "0", "parameters": [TEXT]}],
    [{"type": "button", "sub_type": "quick_reply", "index": 9}],
    [
        {
            "type": "carousel",
            "cards": [{"card_index": 0, "components": [{"type": "header", "parameters": []}]}],
        }
    ],
]
BAD_COMPONENTS: list[Any] = [
    5,
    "header",
    {"type": "header"},
    True,
    [5],
    [["header"]],
    [{}],
    [{"type": 5}],
    [{"type": "footer"}],
    [{"type": "body", "parameters": [TEXT]}],
    [{"type": "header", "parameters": TEXT}],
    [{"type": "header", "parameters": [5]}],
    [{"type": "header", "parameters": [{"text": "Spring"}]}],
    [{"type": "header", "parameters": [TEXT] * 21}],
    [{"type": "button", "index": 10}],
    [{"type": "button", "index": True}],
    [{"type": "header", "parameters": [{"type": "text", "text": "x" * 4_001}]}],
    [{"type": "header", "parameters": [{"type": "text", "text": "x" * 2_000}] * 11}],
    [{"type": "header"}] * 21,
    [{"type": "header", "deep": [[[[[[[[[[1]]]]]]]]]]}],
]
BAD_VARIABLES: list[Any] = [
    5,
    "name",
    {"from": "name"},
    [5],
    [None],
    [["name"]],
    ["shoe size"],
    ["attributes."],
    ["attributes." + "x" * 101],
    [{"default": "you"}],
    [{"from": "name", "default": 5}],
    [{"from": "name", "default": "x" * 1_025}],
    [{"from": "name", "fallback": "you"}],
    ["name"] * 101,
]
BAD_AUDIENCES: list[Any] = [
    5,
    [],
    {},
    "all",
    {"all": False},
    {"all": True, "segment": 1},
    {"segment": "1"},
    {"segment": True},
    {"segment": 0},
    {"segment": 2**63},
    {"contacts": []},
    {"contacts": "c1"},
    {"contacts": [5]},
    {"contacts": ["c1"] * 10_001},
    {"everybody": True},
]
UNSTORABLE = ["a\0b", "\ud800"]


@pytest.fixture
def api(acme: Tenant) -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {create_api_key(tenant=acme)}"})


@pytest.fixture
def operator(acme: Tenant) -> Client:
    user = factories.UserFactory.create(is_staff=True)
    add_member(tenant=acme, user=user, role="operator")
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    return client


def body_of(variables: Any) -> str:
    n = len(variables) if isinstance(variables, list) else 0
    return "Hi " + " ".join(f"{{{{{i + 1}}}}}" for i in range(n))


# -- by the actions


@pytest.mark.parametrize("components", GOOD_COMPONENTS)
def test_good_components_are_kept_as_they_are(acme: Tenant, components: list[Any]) -> None:
    template = make_template(acme, components=components)
    template.refresh_from_db()
    assert template.components == components


def refusal(field: str, value: Any, acme: Tenant) -> ActionRefused:
    template = make_template(acme)
    with pytest.raises(ActionRefused) as refused:
        update_template(template_id=template.pk, **{field: value, "body": body_of(value)})
    with pytest.raises(ActionRefused):
        create_template(tenant_id=acme.pk, name="another", **{field: value, "body": body_of(value)})
    template.refresh_from_db()
    assert (template.components, template.variables) == ([], [])
    return refused.value


@pytest.mark.parametrize("components", BAD_COMPONENTS, ids=str)
def test_bad_components_are_refused_at_their_field(acme: Tenant, components: Any) -> None:
    assert refusal("components", components, acme).field == "components"


@pytest.mark.parametrize("variables", BAD_VARIABLES, ids=lambda value: str(value)[:40])
def test_bad_variables_are_refused_at_their_field(acme: Tenant, variables: Any) -> None:
    assert refusal("variables", variables, acme).field == "variables"


@pytest.mark.parametrize("text", UNSTORABLE, ids=repr)
def test_what_postgresql_cannot_store_is_refused(text: str) -> None:
    for check, value in (
        (components_of, [{"type": "header", "parameters": [{"type": "text", "text": text}]}]),
        (components_of, [{"type": "header", text: 1}]),
        (variables_of, [f"attributes.{text}"]),
        (variables_of, [{"from": "name", "default": text}]),
        (audience_of, {"contacts": [text]}),
    ):
        with pytest.raises(ActionRefused):
            check(value)


def test_a_hundred_variables_can_be_filled_in(acme: Tenant) -> None:
    variables = ["name"] * 100
    template = make_template(acme, variables=variables, body=body_of(variables))
    assert len(template.variables) == 100


@pytest.mark.parametrize("audience", BAD_AUDIENCES, ids=lambda value: str(value)[:40])
def test_bad_audiences_are_refused_at_their_field(acme: Tenant, audience: Any) -> None:
    make_contacts(acme, 1)
    draft = make_broadcast(acme)
    with pytest.raises(ActionRefused) as refused:
        update_broadcast(broadcast_id=draft.pk, audience=audience)
    assert refused.value.field == "audience"


@pytest.mark.parametrize("attributes", [5, [], "x", None, {"a": "\0"}, {"a": [[[[[[1]]]]]]}], ids=str)
def test_attributes_are_an_object_that_can_be_stored(acme: Tenant, attributes: Any) -> None:
    with pytest.raises(ActionRefused) as refused:
        save_contact(contact=Contact(tenant=acme, external_id="c1", attributes=attributes))
    assert refused.value.field == "attributes"


# -- by the API


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("components", 5),
        ("components", [{"type": "footer"}]),
        ("variables", 5),
        ("variables", ["name"] * 101),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_api_names_the_field(acme: Tenant, api: APIClient, field: str, value: Any) -> None:
    template = make_template(acme)
    answer = api.patch(f"/api/v1/templates/{template.pk}/", {field: value}, format="json")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"].split(".")[0] == field


# -- in the admin


@pytest.mark.parametrize(
    ("field", "typed", "words"),
    [
        ("components", "5", "Write a list of objects"),
        ("components", "{}", "Write a list of objects"),
        ("components", '""', "Write a list of objects"),
        ("components", '[{"type": "footer"}]', "its type is one of header, button"),
        ("components", "[", "valid JSON"),
        ("variables", "5", "Write a list such as"),
        ("variables", "0", "Write a list such as"),
        ("variables", orjson.dumps(["name"] * 101).decode(), "At most 100 variables"),
        ("variables", '["shoe size"]', "is not name, phone"),
    ],
)
@pytest.mark.parametrize("page", ["add", "change"])
def test_the_admin_says_at_the_field_what_to_write(
    acme: Tenant, operator: Client, page: str, field: str, typed: str, words: str
) -> None:
    template = make_template(acme, name="spring")
    data = {"name": "other", "language": "en", "category": "utility", "state": "approved", "body": "Hi"}
    data |= {"variables": "[]", "components": "[]", "vendor_id": ""}
    arguments = (template.pk,) if page == "change" else ()
    address = reverse(f"admin:messaging_messagetemplate_{page}", args=arguments)
    answer = operator.post(address, data | {field: typed})
    assert answer.status_code == 200
    assert words in str(answer.context["adminform"].form.errors[field])
    with all_tenants():
        assert list(MessageTemplate.objects.values_list("variables", "components")) == [([], [])]
    assert operator.post(address, data | {field: ""}).status_code == 302, "nothing typed is none"


@pytest.mark.parametrize("typed", ["5", "[]", "0", '""', '{"any": []}'])
def test_rules_that_are_none_are_not_taken_for_everybody(acme: Tenant, operator: Client, typed: str) -> None:
    answer = operator.post(reverse("admin:campaigns_segment_add"), {"name": "some", "rules": typed})
    assert "rules" in answer.context["adminform"].form.errors
    with all_tenants():
        assert not Segment.objects.exists()


# -- in the database

COLUMNS = [
    ("messaging_messagetemplate", "components", "template_components_are_a_list"),
    ("messaging_messagetemplate", "variables", "template_variables_are_a_list"),
    ("messaging_broadcast", "audience", "broadcast_audience_is_an_object"),
    ("messaging_broadcaststep", "frozen", "step_frozen_is_an_object"),
    ("campaigns_contact", "attributes", "contact_attributes_are_an_object"),
    ("campaigns_segment", "rules", "segment_rules_are_an_object"),
]


@pytest.mark.parametrize(("table", "column", "name"), COLUMNS, ids=[f"{t}.{c}" for t, c, _ in COLUMNS])
def test_the_database_takes_no_other_kind_of_value(acme: Tenant, table: str, column: str, name: str) -> None:
    make_contacts(acme, 1)
    make_broadcast(acme)
    Segment.objects.create(tenant=acme, name="some", rules={})
    with pytest.raises(IntegrityError, match=name), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = '5'")
