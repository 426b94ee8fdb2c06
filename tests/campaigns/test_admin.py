"""Contacts and their company in the admin: pages, forms that normalise, and the import in two steps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from campaigns.models import Campaign, Cohort, Contact, Segment, SocialAccount
from tenants.actions import add_member
from tenants.models import Tenant
from tenants.scope import all_tenants, tenant_scope
from tests.factories import CampaignFactory, ContactFactory, SegmentFactory, SpinEntryFactory, UserFactory

NO_ACCOUNTS = {"accounts-TOTAL_FORMS": "0", "accounts-INITIAL_FORMS": "0"}
CONTACTS = "/admin/campaigns/contact/"


@pytest.fixture
def client(acme: Tenant, globex: Tenant) -> Client:
    """An operator of Acme."""
    user = UserFactory.create(is_staff=True)
    with all_tenants():
        add_member(tenant=acme, user=user, role="operator")
    client = Client()
    client.force_login(user)
    return client


def errors(page: Any) -> str:
    return str(page.context["adminform"].form.errors)


@pytest.mark.parametrize("model", ["campaign", "contact", "segment", "cohort", "spinentry"])
def test_lists_show_the_own_rows_only(client: Client, acme: Tenant, globex: Tenant, model: str) -> None:
    for tenant in (acme, globex):
        with tenant_scope(tenant.pk):
            entry = SpinEntryFactory.create(tenant=tenant, source=f"source of {tenant.slug}")
            contact, campaign = entry.contact, entry.campaign
            contact.name = campaign.name = contact.external_id = f"thing of {tenant.slug}"
            contact.save()
            campaign.save()
            Segment.objects.create(tenant=tenant, name=contact.name)
            Cohort.objects.create(tenant=tenant, name=contact.name)
    shown = client.get(f"/admin/campaigns/{model}/").content.decode()
    assert "thing of acme" in shown
    assert "of globex" not in shown


def test_a_contact_is_normalised_by_the_form(client: Client, acme: Tenant) -> None:
    body = {"external_id": "c1", "phone": "+49 1512 3456789", "email": "A@Example.org", "attributes": "{}"}
    added = client.post(f"{CONTACTS}add/", body | NO_ACCOUNTS)
    assert added.status_code == 302, errors(added)
    with tenant_scope(acme.pk):
        contact = Contact.objects.get()
    assert (contact.phone, contact.email) == ("+4915123456789", "a@example.org")
    assert contact.timezone == "Europe/Berlin"
    accounts = {
        "accounts-TOTAL_FORMS": "1",
        "accounts-INITIAL_FORMS": "0",
        "accounts-0-contact": contact.pk,
        "accounts-0-platform": "instagram",
        "accounts-0-username": "@Ann",
    }
    changed = client.post(f"{CONTACTS}{contact.pk}/change/", body | accounts)
    assert changed.status_code == 302, errors(changed)
    with tenant_scope(acme.pk):
        assert SocialAccount.objects.get().username == "ann"
    wrong = client.post(f"{CONTACTS}add/", {**body, "phone": "12", "timezone": "Mars"} | NO_ACCOUNTS)
    assert "has no country code" in errors(wrong)
    assert "is not an IANA time zone" in errors(wrong)
    assert "already exists" in errors(wrong)


def test_a_file_is_previewed_then_confirmed(client: Client, acme: Tenant, globex: Tenant) -> None:
    file = SimpleUploadedFile("people.csv", b"external_id,phone\nc1,+14155550123\nc2,12\n", "text/csv")
    preview = client.post(f"{CONTACTS}import/", {"import_file": file, "format": "0", "resource": ""})
    page = preview.content.decode()
    assert "1 contacts are created" in page
    assert "phone: has no country code" in page
    with tenant_scope(acme.pk):
        assert not Contact.objects.exists()
    hidden = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.split("process_import")[-1]))
    done = client.post(f"{CONTACTS}process_import/", hidden, follow=True)
    assert "1 contacts created, 0 changed, 1 rejected." in done.content.decode()
    with tenant_scope(acme.pk):
        assert Contact.objects.get().external_id == "c1"
    with tenant_scope(globex.pk):
        assert not Contact.objects.exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"name\nAnn\n", "no column external_id"),
        (b"PK\x03\x04", "workbook"),
        (b"external_id\n\xff\n", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_says_so_on_the_form(client: Client, data: bytes, said: str) -> None:
    file = SimpleUploadedFile("people.csv", data, "text/csv")
    page = client.post(f"{CONTACTS}import/", {"import_file": file, "format": "0", "resource": ""})
    assert page.status_code == 200
    assert said in str(page.context["form"].errors)


def test_a_viewer_does_not_import(acme: Tenant) -> None:
    user = UserFactory.create(is_staff=True)
    with all_tenants():
        add_member(tenant=acme, user=user, role="viewer")
    client = Client()
    client.force_login(user)
    assert client.get(CONTACTS).status_code == 200
    assert client.get(f"{CONTACTS}import/").status_code == 403


def test_a_campaign_is_moved_by_buttons(client: Client, acme: Tenant, globex: Tenant) -> None:
    with tenant_scope(acme.pk):
        campaign = CampaignFactory.create(tenant=acme, state="draft")
    address = f"/admin/campaigns/campaign/{campaign.pk}/do"
    for verb, state in [
        ("pause", "draft"),
        ("start", "active"),
        ("pause", "paused"),
        ("complete", "completed"),
    ]:
        assert client.get(f"{address}/{verb}/").status_code == 405
        assert client.post(f"{address}/{verb}/").status_code == 302
        with tenant_scope(acme.pk):
            assert Campaign.objects.get().state == state
    with tenant_scope(globex.pk):
        theirs = CampaignFactory.create(tenant=globex)
    assert client.post(f"/admin/campaigns/campaign/{theirs.pk}/do/pause/").status_code == 404


def test_a_segment_counts_refuses_wrong_rules_and_becomes_a_cohort(client: Client, acme: Tenant) -> None:
    with tenant_scope(acme.pk):
        for name in ("Ann", "Bob"):
            ContactFactory.create(tenant=acme, name=name)
        segment = SegmentFactory.create(tenant=acme, rules={"field": "name", "op": "eq", "value": "Ann"})
    address = f"/admin/campaigns/segment/{segment.pk}"
    page = client.get(f"{address}/change/")
    assert page.context["adminform"].form.instance == segment
    assert ">1<" in re.sub(r"\s+", "", page.content.decode().split("ontacts now")[1][:2000])
    wrong = client.post(f"{address}/change/", {"name": "x", "rules": '{"and": 1}'})
    assert "rules: must have all, any, not" in errors(wrong)
    assert client.post(f"{address}/do/keep/").status_code == 302
    with tenant_scope(acme.pk):
        assert [row.name for row in Contact.objects.in_cohort(Cohort.objects.get())] == ["Ann"]
