"""R7 in the admin: every page of every registered model, as one tenant with the other tenant's ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db import models
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from tenants.admin_actions import ObjectActions
from tenants.admin_base import TenantModelAdmin
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories

MARK = "only-bolt-may-read-this"
MARKED = ("summary", "name", "label", "external_id", "reason", "source", "username", "address")

REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
OF_TENANT = [
    model
    for model in REGISTERED
    if isinstance(admin.site._registry[model], TenantModelAdmin) and model is not Tenant
]
"""Those whose pages a tenant's people open: a webhook has a tenant too, but only our own staff read it."""
OTHERS = [model for model in REGISTERED if model not in OF_TENANT and model is not Tenant]
"""Rows of the machinery: runs, webhooks, accounts, django-q2's tables. Our own staff's."""


def name_of(model: type[models.Model]) -> str:
    return str(model._meta.label)


def make(model: type[models.Model], tenant: Tenant | None, mark: str = "") -> models.Model:
    """Make one row for a tenant, marked in whatever text it has."""
    incident = model._meta.label == "engine.Incident"
    factory = factories.IncidentFactory if incident else factories.factory_of(model)
    with all_tenants():
        row: models.Model = factory.create(tenant=tenant)
        if mark:
            text = f"{mark}-{row.pk}"
            marked = [
                f.name for f in model._meta.fields if f.name in MARKED and (f.max_length or 0) >= len(text)
            ]
            model._base_manager.filter(pk=row.pk).update(**dict.fromkeys(marked, text))
        return row


def as_stored(model: type[models.Model], pk: Any) -> dict[str, Any] | None:
    with all_tenants():
        return model._base_manager.filter(pk=pk).values().first()


def pages_of(model: type[models.Model], pk: Any) -> Iterator[str]:
    """Every address of a model's admin that names a row, the verbs of its buttons filled in."""
    page = admin.site._registry[model]
    for pattern in page.get_urls():
        route = str(pattern.pattern)
        if "object_id" not in route and "<id>" not in route:
            continue
        verbs = [""]
        if isinstance(page, ObjectActions) and "<slug:verb>" in route:
            verbs = list(page.object_actions())
        for verb in verbs:
            filled = (
                route.replace("<path:object_id>", str(quote(pk)))
                .replace("<slug:verb>", verb)
                .replace("<id>", str(pk))
            )
            yield f"/admin/{model._meta.app_label}/{model._meta.model_name}/{filled}"


@pytest.fixture
def owner(sign_in: Any, acme: Tenant) -> Client:
    return sign_in(acme, "owner")


@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_a_list_shows_the_own_rows_and_no_others(
    model: type[models.Model], owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    mine, theirs = make(model, acme), make(model, bolt, MARK)
    answer = owner.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
    assert answer.status_code == 200
    shown = {row.pk for row in answer.context["cl"].result_list}
    assert mine.pk in shown
    assert theirs.pk not in shown
    assert MARK not in answer.content.decode()


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_no_page_opens_or_changes_another_tenants_row(
    model: type[models.Model], method: str, owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    make(model, acme)
    theirs = make(model, bolt, MARK)
    before = as_stored(model, theirs.pk)
    pages = list(pages_of(model, theirs.pk))
    assert len(pages) >= 3, "change, delete and history at least"
    for address in pages:
        data = {"post": "yes", "_save": "1", "name": "taken over"} if method == "post" else {}
        answer = getattr(owner, method)(address, data)
        assert answer.status_code in (302, 403, 404, 405), f"{method} {address}: {answer.status_code}"
        if answer.status_code == 302:  # Django's "does not exist", or the catch-all that adds change/
            assert answer["Location"] in ("/admin/", address + "change/", f"{address}change/"), address
        assert MARK not in answer.content.decode()
    assert as_stored(model, theirs.pk) == before


@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_every_page_opens_for_the_own_row(model: type[models.Model], owner: Client, acme: Tenant) -> None:
    """The other half: refusing everything would pass the test above."""
    mine = make(model, acme)
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    for page in ("change", "history"):
        assert owner.get(reverse(f"{name}_{page}", args=(quote(mine.pk),))).status_code == 200, page


@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_pages_without_an_id_name_nothing_of_another_tenant(
    model: type[models.Model], owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    """Forms with their choices, and whatever else a page of its own adds: imports, exports."""
    for related in OF_TENANT:
        make(related, bolt, MARK)
    page = admin.site._registry[model]
    for pattern in page.get_urls():
        route = str(pattern.pattern)
        if "<" in route:
            continue
        answer = owner.get(f"/admin/{model._meta.app_label}/{model._meta.model_name}/{route}")
        assert answer.status_code < 500, route
        assert MARK not in answer.content.decode(), route


@pytest.mark.parametrize("model", OTHERS, ids=name_of)
def test_a_member_sees_nothing_of_the_machinery(model: type[models.Model], owner: Client) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert owner.get(reverse(f"{name}_changelist")).status_code == 403
    for page in ("change", "delete", "history"):
        answer = owner.get(reverse(f"{name}_{page}", args=(1,)))
        assert answer.status_code in (302, 403), page
        if answer.status_code == 302:
            assert answer["Location"] == "/admin/"
    assert owner.get(reverse(f"{name}_add")).status_code == 403


def test_a_member_sees_the_own_tenant_only(owner: Client, acme: Tenant, bolt: Tenant) -> None:
    answer = owner.get(reverse("admin:tenants_tenant_changelist"))
    assert [tenant.pk for tenant in answer.context["cl"].result_list] == [acme.pk]
    assert owner.get(reverse("admin:tenants_tenant_change", args=(acme.pk,))).status_code == 200
    theirs = owner.get(reverse("admin:tenants_tenant_change", args=(bolt.pk,)))
    assert theirs.status_code == 302
    assert (
        owner.post(reverse("admin:tenants_tenant_change", args=(acme.pk,)), {"tier": "premium"}).status_code
        == 403
    )


def test_choosing_another_tenant_in_the_header_grants_nothing(
    owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    make(factories.CampaignFactory._meta.model, bolt, MARK)
    owner.post(reverse("choose_tenant"), {"tenant": bolt.pk})
    answer = owner.get(reverse("admin:index"))
    assert answer.context["site_subheader"] == acme.name


@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_autocomplete_offers_the_own_rows_only(
    model: type[models.Model], owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    page = admin.site._registry[model]
    for inline in (page, *page.inlines):
        for field in inline.autocomplete_fields:
            source = inline.model if hasattr(inline, "model") and inline is not page else model
            target = source._meta.get_field(field).related_model
            if target not in OF_TENANT:
                continue
            mine, theirs = make(target, acme), make(target, bolt, MARK)
            query = {
                "app_label": source._meta.app_label,
                "model_name": source._meta.model_name,
                "field_name": field,
            }
            answer = owner.get(reverse("admin:autocomplete"), {**query, "term": ""})
            offered = {row["id"] for row in answer.json()["results"]}
            assert str(mine.pk) in offered
            assert str(theirs.pk) not in offered


def test_the_front_page_and_its_polling_tell_nothing_of_another_tenant(
    owner: Client, acme: Tenant, bolt: Tenant
) -> None:
    with all_tenants():
        factories.BroadcastFactory.create(tenant=bolt, name=MARK, state="running")
        factories.BroadcastFactory.create(tenant=acme, name="ours", state="running")
        factories.IncidentFactory.create(tenant=bolt, summary=MARK)
        factories.LaneFactory.create(tenant=bolt, name=MARK, paused_at=now(), pause_reason="token")
    for address in (reverse("admin:index"), reverse("admin:live")):
        text = owner.get(address).content.decode()
        assert "ours" in text
        assert MARK not in text
    live = owner.get(reverse("admin:live")).json()
    assert live["queues"] == live["hours"] == live["clusters"] == []
    assert next(tile["value"] for tile in live["tiles"] if tile["title"] == "Open incidents") == 0
