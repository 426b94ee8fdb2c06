"""The platform's own tokens in the admin: our staff's, and never a tenant's people's to see."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from django.test import Client
from django.urls import reverse

from engine.models import Allowance, Lane
from tenants.models import ProviderToken, Tenant
from tenants.scope import TenantOrPlatformOwned, all_tenants
from tests import factories
from tests.admin.test_isolation import MARK, OF_TENANT, as_stored, make, name_of, pages_of

PLATFORM = [model for model in OF_TENANT if issubclass(model, TenantOrPlatformOwned)]
ADD = "/admin/tenants/providertoken/add/"
TOKEN = {"provider": "apify", "label": "Main", "config": "{}", "secret": "apify-very-secret"}


@pytest.fixture
def staff(sign_in: Any) -> Client:
    client: Client = sign_in()
    return client


def test_our_staff_add_change_and_retire_a_platform_token(staff: Client, acme: Tenant, bolt: Tenant) -> None:
    assert "The platform's own" in staff.get(ADD).content.decode()
    answer = staff.post(f"{ADD}?platform=1", TOKEN | {"usable_by": [acme.pk], "hourly_allowance": 200})
    assert answer.status_code == 302, answer.content
    with all_tenants():
        token = ProviderToken.objects.get()
        assert (token.tenant, list(token.usable_by.all())) == (None, [acme])
        assert (token.secret, token.allowances.get().limit) == (TOKEN["secret"], 200)
        lane = factories.LaneFactory.create(tenant=None, token=token)
    change = reverse("admin:tenants_providertoken_change", args=(token.pk,))
    page = staff.get(change).content.decode()
    assert "Check now" in page
    assert TOKEN["secret"] not in page
    assert staff.post(change, TOKEN | {"secret": "", "label": "Renamed", "usable_by": []}).status_code == 302
    staff.post(reverse("admin:tenants_providertoken_act", args=(token.pk, "retire")))
    with all_tenants():
        token.refresh_from_db()
        assert (token.label, token.state, list(token.usable_by.all())) == ("Renamed", "revoked", [])
        assert Lane.objects.get(pk=lane.pk).pause_reason == "token"


def test_a_tenants_token_offers_nobody_else_to_serve(sign_in: Any, staff: Client, acme: Tenant) -> None:
    with all_tenants():
        token = factories.ProviderTokenFactory.create(tenant=acme)
    change = reverse("admin:tenants_providertoken_change", args=(token.pk,))
    for client in (staff, sign_in(acme, "owner")):
        assert "usable_by" not in client.get(change).content.decode()


def test_a_tenants_owner_makes_no_platform_token(sign_in: Any, acme: Tenant) -> None:
    owner = sign_in(acme, "owner")
    owner.post(f"{ADD}?platform=1", TOKEN | {"usable_by": [acme.pk]})
    with all_tenants():
        assert [(token.tenant, token.usable_by.count()) for token in ProviderToken.objects.all()] == [
            (acme, 0)
        ]


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("model", PLATFORM, ids=name_of)
def test_no_page_of_a_tenants_person_opens_a_platform_row(
    model: type[models.Model], method: str, sign_in: Any, acme: Tenant
) -> None:
    theirs = make(model, None, MARK)
    before = as_stored(model, theirs.pk)
    owner = sign_in(acme, "owner")
    narrowed = sign_in()
    narrowed.post(reverse("choose_tenant"), {"tenant": acme.pk})
    for client in (owner, narrowed):
        for address in pages_of(model, theirs.pk):
            answer = getattr(client, method)(address, {"post": "yes", "_save": "1"})
            assert answer.status_code in (302, 403, 404, 405), address
            assert MARK not in answer.content.decode()
        listed = client.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
        assert theirs.pk not in {row.pk for row in listed.context["cl"].result_list}
    assert as_stored(model, theirs.pk) == before


@pytest.mark.parametrize("model", PLATFORM, ids=name_of)
def test_our_staff_list_and_open_platform_rows(
    model: type[models.Model], staff: Client, acme: Tenant
) -> None:
    ours, theirs = make(model, None), make(model, acme)
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    answer = staff.get(reverse(f"{name}_changelist"), {"tenant": "platform"})
    shown = {row.pk for row in answer.context["cl"].result_list}
    assert ours.pk in shown
    assert theirs.pk not in shown
    for page in ("change", "history"):
        assert staff.get(reverse(f"{name}_{page}", args=(ours.pk,))).status_code == 200


def test_a_budget_is_edited_and_calls_an_hour_are_not(sign_in: Any, acme: Tenant) -> None:
    owner = sign_in(acme, "owner")
    with all_tenants():
        budget = factories.AllowanceFactory.create(tenant=acme, limit=10)
        token = factories.ProviderTokenFactory.create(tenant=acme, hourly_allowance=200)
        hourly = token.allowances.get()
    for row, limit in ((budget, 70), (hourly, 200)):
        address = reverse("admin:engine_allowance_change", args=(row.pk,))
        owner.post(address, {"limit": 70, "timezone": "Europe/Vienna"})
        with all_tenants():
            assert Allowance.objects.get(pk=row.pk).limit == limit
    refused = owner.post(
        reverse("admin:engine_allowance_change", args=(budget.pk,)), {"limit": 5, "timezone": "Mars"}
    )
    assert "no such time zone" in refused.content.decode()
