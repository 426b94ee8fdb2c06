"""One request, one transaction, one scope: whose it is, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from django.contrib.auth.models import Permission, User
from django.test import Client

from tenants.actions import add_member, create_api_key, suspend_tenant
from tenants.middleware import SESSION_KEY
from tenants.models import Membership, Tenant
from tenants.scope import NoTenantScope, all_tenants, current_scope
from tests.factories import CampaignFactory, MembershipFactory, UserFactory

pytestmark = pytest.mark.urls("tests.tenants.urls")


@pytest.fixture(autouse=True)
def campaigns(acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        CampaignFactory(tenant=acme, name="of acme")
        CampaignFactory(tenant=bolt, name="of bolt")


@pytest.fixture(autouse=True)
def nothing_is_left_in_force() -> Iterator[None]:
    yield
    with pytest.raises(NoTenantScope):
        current_scope()


def system(tenant: Tenant) -> Client:
    with all_tenants():
        return Client(headers={"Authorization": f"Bearer {create_api_key(tenant=tenant)}"})


def person(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def member_of(*tenants: Tenant, role: str = "operator") -> Any:
    user = UserFactory.create()
    with all_tenants():
        for tenant in tenants:
            add_member(tenant=tenant, user=user, role=role)
    return user


def test_a_key_acts_for_its_tenant(acme: Tenant) -> None:
    answer = system(acme).get("/api/v1/probe/").json()
    assert (answer["scope"], answer["tenant"], answer["seen"]) == (acme.pk, acme.pk, ["of acme"])


def test_without_a_key_nobody_is_acted_for() -> None:
    answer = Client().get("/api/v1/probe/").json()
    assert (answer["scope"], answer["seen"]) == (None, [])


@pytest.mark.parametrize("path", ["/health/probe/", "/webhooks/probe/"])
def test_other_addresses_have_no_tenant_even_with_a_key_or_a_session(acme: Tenant, path: str) -> None:
    superuser = UserFactory.create(is_staff=True, is_superuser=True)
    for client in (Client(), system(acme), person(superuser)):
        answer = client.get(path).json()
        assert (answer["scope"], answer["seen"]) == (None, [])


def test_platform_staff_see_all_tenants() -> None:
    answer = person(UserFactory.create(is_staff=True, is_superuser=True)).get("/admin/probe/").json()
    assert (answer["scope"], answer["role"]) == ("all", "staff")
    assert answer["seen"] == ["of acme", "of bolt"]


def test_platform_staff_need_not_be_superusers_but_must_be_told_so() -> None:
    user = UserFactory.create(is_staff=True)
    assert person(user).get("/admin/probe/").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="see_all_tenants"))
    assert person(user).get("/admin/probe/").json()["scope"] == "all"


def test_who_loses_his_last_membership_sees_nothing(acme: Tenant) -> None:
    user = member_of(acme)
    client = person(user)
    assert client.get("/admin/probe/").json()["seen"] == ["of acme"]
    with all_tenants():
        Membership.objects.all().delete()
    refused = client.get("/admin/probe/")
    assert refused.status_code == 403
    assert "belongs to no tenant" in refused.content.decode()


@pytest.mark.parametrize("role", ["owner", "operator", "viewer"])
def test_a_member_acts_for_his_tenant(acme: Tenant, role: str) -> None:
    answer = person(member_of(acme, role=role)).get("/admin/probe/").json()
    assert (answer["scope"], answer["role"], answer["seen"]) == (acme.pk, role, ["of acme"])


def test_a_member_of_several_chooses_and_only_among_his_own(acme: Tenant, bolt: Tenant) -> None:
    client = person(member_of(acme, bolt))
    assert client.get("/admin/probe/").json()["seen"] == ["of acme"]
    response = client.post("/admin/tenant/", {"tenant": bolt.pk, "next": "/admin/probe/"})
    assert (response.status_code, response.headers["Location"]) == (302, "/admin/probe/")
    assert client.get("/admin/probe/").json()["seen"] == ["of bolt"]

    stranger = person(member_of(acme))
    stranger.post("/admin/tenant/", {"tenant": bolt.pk})
    assert stranger.get("/admin/probe/").json()["seen"] == ["of acme"]


def test_platform_staff_may_look_at_one_tenant_and_go_back(bolt: Tenant) -> None:
    client = person(UserFactory.create(is_staff=True, is_superuser=True))
    client.post("/admin/tenant/", {"tenant": bolt.pk})
    answer = client.get("/admin/probe/").json()
    assert (answer["scope"], answer["role"], answer["seen"]) == (bolt.pk, "staff", ["of bolt"])
    client.post("/admin/tenant/", {"tenant": ""})
    assert client.get("/admin/probe/").json()["scope"] == "all"


def test_the_switch_takes_a_post_from_somebody_signed_in_and_leads_nowhere_else(bolt: Tenant) -> None:
    assert "/admin/login/" in Client().post("/admin/tenant/", {"tenant": bolt.pk}).headers["Location"]
    client = person(member_of(bolt))
    assert client.get("/admin/tenant/").status_code == 405
    away = client.post("/admin/tenant/", {"tenant": bolt.pk, "next": "https://example.org/"})
    assert away.headers["Location"] == "/admin/"
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(member_of(bolt))
    assert strict.post("/admin/tenant/", {"tenant": bolt.pk}).status_code == 403


def test_a_suspended_tenants_people_are_told_so_and_may_go_elsewhere(acme: Tenant, bolt: Tenant) -> None:
    client = person(member_of(acme, bolt))
    suspend_tenant(tenant_id=acme.pk)
    refused = client.get("/admin/probe/")
    assert refused.status_code == 403
    assert "Acme is suspended" in refused.content.decode()
    assert "Go to Bolt" in refused.content.decode()
    client.post("/admin/tenant/", {"tenant": bolt.pk})
    assert client.get("/admin/probe/").json()["seen"] == ["of bolt"]


def test_platform_staff_still_see_a_suspended_tenant(acme: Tenant) -> None:
    suspend_tenant(tenant_id=acme.pk)
    client = person(UserFactory.create(is_staff=True, is_superuser=True))
    client.post("/admin/tenant/", {"tenant": acme.pk})
    assert client.get("/admin/probe/").json()["seen"] == ["of acme"]


def test_the_login_page_needs_nobody() -> None:
    assert Client().get("/admin/login/").status_code == 200


def test_a_session_that_names_a_tenant_that_is_gone_is_not_followed(acme: Tenant) -> None:
    client = person(member_of(acme))
    session = client.session
    session[SESSION_KEY] = 2**40
    session.save()
    assert client.get("/admin/probe/").json()["seen"] == ["of acme"]


@pytest.mark.parametrize(("status", "kept"), [(200, True), (409, True), (500, False), (503, False)])
def test_a_server_error_leaves_nothing_behind(acme: Tenant, status: int, kept: bool) -> None:
    response = system(acme).post(f"/api/v1/fail/?status={status}")
    assert response.status_code == status
    assert Tenant.objects.filter(slug="written-by-a-failure").exists() is kept


@pytest.mark.parametrize("area", ["api/v1", "admin"])
def test_an_exception_leaves_nothing_behind(acme: Tenant, area: str) -> None:
    client = system(acme) if area == "api/v1" else person(member_of(acme))
    client.raise_request_exception = False
    assert client.post(f"/{area}/raise/").status_code == 500
    assert not Tenant.objects.filter(slug="written-by-a-failure").exists()


@pytest.mark.parametrize("area", ["api/v1", "admin"])
def test_a_stream_is_made_inside_its_tenant(acme: Tenant, area: str) -> None:
    client = system(acme) if area == "api/v1" else person(member_of(acme))
    response: Any = client.get(f"/{area}/stream/")
    with pytest.raises(NoTenantScope):
        current_scope()
    lines = [json.loads(line) for line in b"".join(response.streaming_content).splitlines()]
    assert lines == [["of acme", acme.pk]]


def test_a_stream_that_is_cut_short_leaves_no_scope(acme: Tenant) -> None:
    with all_tenants():
        CampaignFactory(tenant=acme, name="second of acme")
    response: Any = system(acme).get("/api/v1/stream/")
    pieces = response._iterator
    assert b"of acme" in next(pieces)
    with pytest.raises(NoTenantScope):
        current_scope()
    pieces.close()  # as the server does when the client goes away
    answer = system(acme).get("/api/v1/probe/").json()
    assert answer["scope"] == acme.pk


def test_a_view_that_calls_out_gets_the_tenant_and_no_transaction(acme: Tenant) -> None:
    client = system(acme)
    inside, alone = client.post("/api/v1/probe/"), client.post("/api/v1/alone/")
    assert alone.json()["tenant"] == acme.pk
    assert (alone.json()["scope"], alone.json()["seen"]) == (None, [])
    assert alone.json()["atomic"] < inside.json()["atomic"]


def test_a_requests_log_line_carries_the_tenant_and_who_it_was_and_the_next_ones_does_not(
    acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> dict[str, Any]:
        line: Any = next(r.msg for r in reversed(caplog.records) if r.name == "turnout.requests")
        return {name: line[name] for name in ("tenant", "user") if name in line}

    caplog.set_level("INFO", logger="turnout.requests")
    system(acme).get("/api/v1/probe/")
    assert told()["tenant"] == acme.pk
    assert told()["user"].startswith("key:")
    user = member_of(acme)
    person(user).get("/admin/probe/")
    assert told() == {"tenant": acme.pk, "user": user.username}
    Client().get("/health/probe/")
    assert told() == {}
    assert not structlog.contextvars.get_contextvars().keys() & {"tenant", "user"}


def test_a_membership_makes_nobody_platform_staff(acme: Tenant) -> None:
    with all_tenants():
        membership: Any = MembershipFactory(tenant=acme)
    user = User.objects.get(pk=membership.user_id)
    user.user_permissions.add(Permission.objects.get(codename="see_all_tenants"))
    assert person(user).get("/admin/probe/").json()["scope"] == acme.pk
