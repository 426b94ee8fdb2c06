"""Whose rows one sees, and how one changes that."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories


@pytest.fixture
def of_both(two: tuple[Tenant, Tenant]) -> Client:
    """Somebody who owns Acme and only looks at Bolt."""
    acme, bolt = two
    with all_tenants():
        person = factories.MembershipFactory.create(tenant=acme, role="owner").user
        factories.MembershipFactory.create(tenant=bolt, user=person, role="viewer")
    client = Client(SERVER_NAME="localhost")
    client.force_login(person)
    return client


def choices(client: Client) -> list[tuple[str, bool]]:
    offered = client.get(reverse("admin:index")).context["tenant_choices"]
    return [(choice["title"], choice["current"]) for choice in offered]


def test_a_person_of_two_tenants_switches_and_the_role_goes_with_the_tenant(
    of_both: Client, acme: Tenant, bolt: Tenant
) -> None:
    assert choices(of_both) == [("Acme", True), ("Bolt", False)]
    assert of_both.get(reverse("admin:campaigns_campaign_add")).status_code == 200
    of_both.post(reverse("choose_tenant"), {"tenant": bolt.pk})
    assert choices(of_both) == [("Acme", False), ("Bolt", True)]
    assert of_both.get(reverse("admin:campaigns_campaign_add")).status_code == 403


def test_a_person_of_one_tenant_has_nothing_to_switch(sign_in: Any, acme: Tenant) -> None:
    client = sign_in(acme)
    assert choices(client) == []
    assert client.get(reverse("admin:index")).context["site_subheader"] == "Acme"


def test_staff_see_all_tenants_or_narrow_to_one(sign_in: Any, acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        factories.CampaignFactory.create(tenant=acme, name="of Acme")
        factories.CampaignFactory.create(tenant=bolt, name="of Bolt")
    staff, page = sign_in(), reverse("admin:campaigns_campaign_changelist")
    both = staff.get(page)
    assert "tenant" in both.context["cl"].list_display
    assert {row.name for row in both.context["cl"].result_list} == {"of Acme", "of Bolt"}
    filtered = staff.get(page, {"tenant": acme.pk})
    assert [row.name for row in filtered.context["cl"].result_list] == ["of Acme"]
    staff.post(reverse("choose_tenant"), {"tenant": bolt.pk})
    narrowed = staff.get(page)
    assert "tenant" not in narrowed.context["cl"].list_display
    assert [row.name for row in narrowed.context["cl"].result_list] == ["of Bolt"]
    assert narrowed.context["site_subheader"] == "Bolt"


def test_staff_change_a_row_among_its_own_tenants_choices_only(
    sign_in: Any, acme: Tenant, bolt: Tenant
) -> None:
    with all_tenants():
        broadcast = factories.BroadcastFactory.create(tenant=acme)
        theirs = factories.CampaignFactory.create(tenant=bolt)
    page = sign_in().get(reverse("admin:messaging_broadcast_change", args=(broadcast.pk,)))
    choices = page.context["adminform"].form.fields["campaign"].queryset
    with all_tenants():
        offered = set(choices.values_list("pk", flat=True))
    assert broadcast.campaign_id in offered
    assert theirs.pk not in offered


def test_somebody_who_belongs_nowhere_gets_in_nowhere(db: None) -> None:
    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_user("stranger", is_staff=True))
    for address in (reverse("admin:index"), reverse("admin:live"), reverse("admin:engine_lane_changelist")):
        assert client.get(address).status_code == 403


def test_only_staff_make_tenants_and_none_is_deleted(sign_in: Any, acme: Tenant) -> None:
    add = reverse("admin:tenants_tenant_add")
    assert sign_in(acme, "owner").get(add).status_code == 403
    staff = sign_in()
    data = {"name": "New", "slug": "new", "state": "active", "tier": "standard", "timezone": "UTC"}
    prefix = staff.get(add).context["inline_admin_formsets"][0].formset.prefix
    answer = staff.post(add, data | {f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0})
    assert answer.status_code == 302
    assert Tenant.objects.get(slug="new").state == "active"
    assert (
        staff.post(reverse("admin:tenants_tenant_delete", args=(acme.pk,)), {"post": "yes"}).status_code
        == 403
    )
    assert Tenant.objects.filter(pk=acme.pk).exists()
