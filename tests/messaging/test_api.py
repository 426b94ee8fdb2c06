"""Messaging over HTTP, in the contract's shapes."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from rest_framework.test import APIClient

from campaigns.models import Campaign, Segment
from engine.models import Lane
from messaging.models import Broadcast, Message, Sender, Suppression
from tenants.models import ProviderToken, Tenant
from tests.api.conftest import client_for
from tests.messaging.build import make_contacts, make_template, make_token, settle

PROGRESS = {
    "state", "total", "queued", "sending", "accepted", "sent", "delivered", "read", "failed", "in_doubt",
    "suppressed", "rate_per_second", "eta_seconds", "steps",
}  # fmt: skip


@pytest.fixture
def api(acme: Tenant) -> APIClient:
    return client_for(acme)


@pytest.fixture
def token(acme: Tenant) -> ProviderToken:
    return make_token(acme, config={"waba_id": "1"})


def created(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def draft(acme: Tenant, api: APIClient, token: ProviderToken) -> dict[str, Any]:
    """A broadcast in two steps to ten contacts, all made over HTTP but the contacts and the campaign."""
    make_contacts(acme, 10)
    campaign = Campaign.objects.create(tenant=acme, name="spring", state="active")
    sender = created(
        api.post(
            "/api/v1/senders/",
            {"provider_token": token.pk, "kind": "whatsapp", "address": "105", "rate_per_second": 50},
        )
    )
    templates = [
        created(
            api.post(
                "/api/v1/templates/",
                {
                    "name": name,
                    "language": "en_US",
                    "category": "utility",
                    "body": "Hi {{1}}",
                    "variables": ["name"],
                },
            )
        )
        for name in ("one", "two")
    ]
    return created(
        api.post(
            "/api/v1/broadcasts/",
            {
                "campaign": campaign.pk,
                "sender": sender["id"],
                "name": "to everybody",
                "steps": [
                    {"template": template["id"], "share": share}
                    for template, share in zip(templates, (70, 30), strict=True)
                ],
                "audience": {"all": True},
            },
        )
    )


def test_a_broadcast_goes_from_draft_to_cancelled(api: APIClient, draft: dict[str, Any]) -> None:
    path = f"/api/v1/broadcasts/{draft['id']}/"
    assert draft["state"] == "draft"
    assert [(step["share"], step["position"], step["state"]) for step in draft["steps"]] == [
        (70, 1, "waiting"),
        (30, 2, "waiting"),
    ]
    preflight = api.post(path + "preflight/").json()
    assert (preflight["total"], preflight["sendable"], preflight["errors"]) == (10, 10, [])
    assert preflight["estimated_seconds"] == 0.2

    assert api.post(path + "launch/").json() == {"state": "running", "total": 10, "excluded": {}}
    again = api.post(path + "launch/")
    assert (again.status_code, again.headers["Content-Type"]) == (409, "application/problem+json")

    progress = api.get(path + "progress/").json()
    assert set(progress) >= PROGRESS
    assert (progress["total"], progress["queued"], progress["eta_seconds"]) == (10, 10, None)
    assert [(step["position"], step["total"], step["state"]) for step in progress["steps"]] == [
        (1, 7, "running"),
        (2, 3, "waiting"),
    ]
    assert api.post(path + "pause/").json()["pause_reason"] == "operator"
    assert api.post(path + "resume/").json()["state"] == "running"
    settle(Broadcast.objects.get(), "failed", 2, error_code="131000")
    assert api.post(path + "retry-failed/").json() == {"retried": 2}
    assert api.post(path + "cancel/").json() == {"state": "cancelled", "cancelled": 10}
    assert api.get(path).json()["state"] == "cancelled"


def test_drafts_are_changed_and_deleted_and_nothing_else_is(api: APIClient, draft: dict[str, Any]) -> None:
    path = f"/api/v1/broadcasts/{draft['id']}/"
    steps = [{"template": draft["steps"][1]["template"], "share": 100}]
    changed = api.patch(path, {"name": "renamed", "steps": steps})
    assert changed.status_code == 200, changed.content
    assert (changed.json()["name"], len(changed.json()["steps"])) == ("renamed", 1)
    assert api.get(path).json() == changed.json()
    assert api.put(path, changed.json()).json() == changed.json()  # what was read can be sent back
    api.post(path + "launch/")
    assert api.patch(path, {"name": "again"}).status_code == 409
    assert api.delete(path).status_code == 409


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("shares that do not add up", {"steps": [{"template": 0, "share": 60}]}, "steps"),
    ("no steps", {"steps": []}, "steps"),
    ("two audiences", {"audience": {"all": True, "segment": 1}}, "audience"),
    ("nobody", {"audience": {"contacts": []}}, "audience"),
    ("somebody unknown", {"audience": {"contacts": ["c1", "who"]}}, "audience"),
    ("a number for a contact", {"audience": {"contacts": [1]}}, "audience"),
    ("no such segment", {"audience": {"segment": 999}}, "audience"),
    ("a text for a segment", {"audience": {"segment": "1"}}, "audience"),
    ("not everybody", {"audience": {"all": False}}, "audience"),
    ("an unknown field", {"colour": "red"}, "colour"),
    ("a state of one's own", {"state": "running"}, "state"),
    ("no such campaign", {"campaign": 999}, "campaign"),
]


@pytest.mark.parametrize(("body", "field"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_what_is_wrong_with_a_broadcast_is_told_by_field(
    api: APIClient, draft: dict[str, Any], body: dict[str, Any], field: str
) -> None:
    for step in body.get("steps", []):
        step["template"] = draft["steps"][0]["template"]
    answer = api.patch(f"/api/v1/broadcasts/{draft['id']}/", body)
    assert answer.status_code == 400, answer.content
    assert answer.json()["errors"][0]["field"].startswith(field)


def test_an_audience_may_be_named_or_a_segment(acme: Tenant, api: APIClient, draft: dict[str, Any]) -> None:
    path = f"/api/v1/broadcasts/{draft['id']}/"
    segment = Segment.objects.create(
        tenant=acme, name="some", rules={"field": "attributes.city", "op": "eq", "value": "City 3"}
    )
    for audience, n in (({"contacts": ["c1", "c2", "c3"]}, 3), ({"segment": segment.pk}, 2)):
        api.patch(path, {"audience": audience})
        assert api.post(path + "preflight/").json()["sendable"] == n


def test_senders(acme: Tenant, globex: Tenant, api: APIClient, token: ProviderToken) -> None:
    body = {"provider_token": token.pk, "kind": "whatsapp", "address": "105", "rate_per_second": 50}
    sender = created(api.post("/api/v1/senders/", body))
    path = f"/api/v1/senders/{sender['id']}/"
    theirs = client_for(globex).post("/api/v1/senders/", body | {"provider_token": make_token(globex).pk})
    assert (theirs.status_code, theirs.json()["errors"][0]["field"]) == (400, "address")
    assert api.patch(path, {"rate_per_second": 70, "label": "desk"}).json()["rate_per_second"] == 70
    assert Lane.objects.get(tenant=acme).rate_per_second == 70
    assert api.put(path, api.get(path).json()).status_code == 200
    assert api.patch(path, {"address": "106"}).status_code == 400
    assert api.patch(path, {"rate_per_second": -1}).status_code == 400
    assert api.delete(path).status_code == 204
    assert not Sender.objects.exists()
    assert not Lane.objects.exists()


def test_a_sender_with_broadcasts_stays(api: APIClient, draft: dict[str, Any]) -> None:
    assert api.delete(f"/api/v1/senders/{draft['sender']}/").status_code == 409


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"variables": []}, "variables"),
        ({"variables": ["name", "email"]}, "variables"),
        ({"variables": ["shoe size"]}, "variables"),
        ({"variables": ["attributes."]}, "variables"),
        ({"variables": [{"from": "name", "fallback": "x"}]}, "variables"),
        ({"variables": [7]}, "variables"),
        ({"body": "Hi {{2}}"}, "variables"),
        ({"category": "spam"}, "category"),
        ({"name": "renamed"}, "name"),
    ],
)
def test_templates_are_checked(acme: Tenant, api: APIClient, change: dict[str, Any], field: str) -> None:
    template = make_template(acme, body="Hi {{1}}", variables=["name"])
    answer = api.patch(f"/api/v1/templates/{template.pk}/", change)
    assert answer.status_code == 400, answer.content
    assert answer.json()["errors"][0]["field"] == field


def test_a_template_is_named_once_per_language(api: APIClient) -> None:
    body = {"name": "spring", "language": "de", "category": "utility", "body": "Hallo"}
    created(api.post("/api/v1/templates/", body))
    assert api.post("/api/v1/templates/", body).status_code == 400
    created(api.post("/api/v1/templates/", body | {"language": "fr"}))


def test_messages_are_listed_filtered_and_never_written(
    acme: Tenant, globex: Tenant, api: APIClient, draft: dict[str, Any]
) -> None:
    api.post(f"/api/v1/broadcasts/{draft['id']}/launch/")
    settle(Broadcast.objects.get(), "delivered", 3)
    counts = {
        query: len(api.get("/api/v1/messages/" + query).json()["results"])
        for query in ("", "?state=delivered", "?contact=c4", f"?broadcast={draft['id']}", "?broadcast=0")
    }
    assert list(counts.values()) == [10, 3, 1, 10, 0]
    assert api.get("/api/v1/messages/?state=lost").status_code == 400
    first = api.get("/api/v1/messages/?contact=c4").json()["results"][0]
    assert (first["contact"], first["parameters"]) == ("c4", ["Name 4"])
    assert api.patch(f"/api/v1/messages/{first['id']}/", {"state": "read"}).status_code == 405
    assert client_for(globex).get("/api/v1/messages/").json()["results"] == []


def test_the_export_streams_the_tenants_own_messages_as_csv(
    acme: Tenant, globex: Tenant, api: APIClient, draft: dict[str, Any]
) -> None:
    api.post(f"/api/v1/broadcasts/{draft['id']}/launch/")
    Message.objects.filter(contact__external_id="c4").update(error_detail='=cmd|" /C calc"!A0', wamid="w,4")
    make_contacts(globex, 3)

    answer = api.get("/api/v1/messages/export/", headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.streaming) == (200, True)
    lines = list(csv.DictReader(b"".join(answer.streaming_content).decode().splitlines()))
    assert [line["contact"] for line in lines] == [
        message.contact.external_id for message in Message.objects.select_related("contact").order_by("pk")
    ]
    fourth = next(line for line in lines if line["contact"] == "c4")
    assert (fourth["error_detail"], fourth["wamid"]) == ('\'=cmd|" /C calc"!A0', "w,4")
    assert fourth["phone"].startswith("+49")
    some = api.get("/api/v1/messages/export/?contact=c4")
    assert len(b"".join(some.streaming_content).splitlines()) == 2
    theirs = client_for(globex).get("/api/v1/messages/export/")
    assert len(b"".join(theirs.streaming_content).splitlines()) == 1
    assert api.get("/api/v1/messages/export/?state=lost").status_code == 400


def test_suppressions_by_phone_or_contact(acme: Tenant, api: APIClient) -> None:
    make_contacts(acme, 2)
    by_phone = created(api.post("/api/v1/suppressions/", {"phone": "+49 30 901820", "reason": "rang us"}))
    assert (by_phone["phone"], by_phone["channel"]) == ("+4930901820", "all")
    by_contact = created(api.post("/api/v1/suppressions/", {"contact": "c1", "channel": "whatsapp"}))
    assert by_contact["contact"] == "c1"
    # asked again, nothing changes
    assert created(api.post("/api/v1/suppressions/", {"contact": "c1", "channel": "whatsapp"})) == by_contact
    for body in ({}, {"phone": "12"}, {"contact": "who"}, {"contact": "c1", "phone": "+4930901820"}):
        assert api.post("/api/v1/suppressions/", body).status_code == 400, body
    assert api.delete(f"/api/v1/suppressions/{by_phone['id']}/").status_code == 204
    assert Suppression.objects.count() == 1


def test_lists_take_as_many_queries_whatever_their_length(
    acme: Tenant, api: APIClient, draft: dict[str, Any], django_assert_max_num_queries: Any
) -> None:
    body = {name: draft[name] for name in ("campaign", "sender", "audience")}
    steps = [{"template": draft["steps"][0]["template"], "share": 100}]
    for number in range(20):
        created(api.post("/api/v1/broadcasts/", body | {"name": f"b{number}", "steps": steps}))
    with django_assert_max_num_queries(20):
        assert len(api.get("/api/v1/broadcasts/").json()["results"]) == 21
