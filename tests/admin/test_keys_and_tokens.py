"""Secrets go in and never come out; keys are shown once; only owners touch either."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from engine.actions import resume_lane
from engine.admin import tokens
from engine.models import Incident
from engine.watch.checks import watch_everything
from engine.watch.incidents import open_incident
from providers.base import Standing
from tenants import keys
from tenants.errors import ActionRefused
from tenants.models import ApiKey, Membership, ProviderToken, Tenant
from tenants.scope import all_tenants
from tests import factories
from tests.api.test_provider_tokens import WRONG_CONFIGS

TOKEN = {"provider": "whatsapp", "label": "Main", "config": "{}", "secret": "EAA-very-secret"}


@pytest.fixture
def owner(sign_in: Any, acme: Tenant) -> Client:
    return sign_in(acme, "owner")


def test_a_key_is_shown_once_and_works(owner: Client, acme: Tenant) -> None:
    answer = owner.post(reverse("admin:tenants_apikey_add"), {"name": "shop", "scopes": "*"}, follow=True)
    page = answer.content.decode()
    with all_tenants():
        key = ApiKey.objects.get()
    shown = page.split('class="t-secret">')[1].split("<")[0]
    assert keys.admit(shown).key == key
    assert key.tenant == acme
    again = owner.get(reverse("admin:tenants_apikey_change", args=(key.pk,))).content.decode()
    assert shown not in again + owner.get(reverse("admin:tenants_apikey_changelist")).content.decode()


def test_a_scope_that_does_not_exist_is_told_at_its_field(owner: Client) -> None:
    answer = owner.post(reverse("admin:tenants_apikey_add"), {"name": "shop", "scopes": "every thing"})
    assert "is no scope" in str(answer.context["adminform"].form.errors["scopes"])


def test_a_key_is_revoked_by_its_button(owner: Client, acme: Tenant) -> None:
    with all_tenants():
        key = factories.ApiKeyFactory.create(tenant=acme)
    owner.post(reverse("admin:tenants_apikey_act", args=(key.pk, "revoke")))
    assert keys.admit(key.plain).key is None


def test_a_secret_is_sealed_and_never_shown(owner: Client) -> None:
    owner.post(reverse("admin:tenants_providertoken_add"), TOKEN)
    with all_tenants():
        token = ProviderToken.objects.get()
    assert token.secret == TOKEN["secret"]
    assert TOKEN["secret"] not in token.sealed_secret
    for page in ("change", "history"):
        shown = owner.get(reverse(f"admin:tenants_providertoken_{page}", args=(token.pk,))).content.decode()
        assert TOKEN["secret"] not in shown
        assert token.sealed_secret not in shown


@pytest.mark.parametrize("config", WRONG_CONFIGS, ids=str)
def test_a_wrong_config_is_told_at_its_field(owner: Client, config: Any) -> None:
    answer = owner.post(
        reverse("admin:tenants_providertoken_add"), TOKEN | {"config": json.dumps(config or ["no object"])}
    )
    assert answer.context["adminform"].form.errors.keys() == {"config"}
    with all_tenants():
        assert not ProviderToken.objects.exists()


def test_the_secret_settings_of_a_config_are_sealed_in_the_admin_too(owner: Client) -> None:
    config = {"waba_id": "77", "app_secret": "app-secret-word"}
    owner.post(reverse("admin:tenants_providertoken_add"), TOKEN | {"config": json.dumps(config)})
    with all_tenants():
        token = ProviderToken.objects.get()
    assert (token.config, token.setting("app_secret")) == ({"waba_id": "77"}, "app-secret-word")
    address = reverse("admin:tenants_providertoken_change", args=(token.pk,))
    page = owner.get(address)
    assert "app-secret-word" not in page.content.decode()
    shown = page.context["adminform"].form.initial["config"]
    assert shown == {"waba_id": "77", "app_secret": None}
    owner.post(address, TOKEN | {"config": json.dumps(shown), "label": "Renamed"})  # null: as it was
    with all_tenants():
        token.refresh_from_db()
    assert (token.label, token.setting("app_secret")) == ("Renamed", "app-secret-word")


def test_an_empty_secret_keeps_the_one_there_is(owner: Client) -> None:
    owner.post(reverse("admin:tenants_providertoken_add"), TOKEN)
    with all_tenants():
        token = ProviderToken.objects.get()
    address = reverse("admin:tenants_providertoken_change", args=(token.pk,))
    assert owner.post(address, TOKEN | {"secret": "", "label": "Renamed"}).status_code == 302
    with all_tenants():
        token.refresh_from_db()
    assert (token.secret, token.label) == (TOKEN["secret"], "Renamed")


def test_a_new_token_needs_its_secret_and_a_label_of_its_own(owner: Client) -> None:
    address = reverse("admin:tenants_providertoken_add")
    assert "needs its secret" in owner.post(address, TOKEN | {"secret": ""}).content.decode()
    owner.post(address, TOKEN)
    twice = owner.post(address, TOKEN)
    assert twice.status_code == 200, "a form error, not a constraint's 500"
    with all_tenants():
        assert ProviderToken.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_vendor_is_asked_outside_any_transaction(sign_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    acme, _ = factories.two_tenants()
    owner = sign_in(acme, "owner")
    with all_tenants():
        token = factories.ProviderTokenFactory.create(tenant=acme)
    inside: list[bool] = []

    def ask(*, token_id: int) -> tuple[Standing, str]:
        inside.append(connection.in_atomic_block)
        return Standing.ACTIVE, "all is well"

    monkeypatch.setattr(tokens, "check_token", ask)
    address = reverse("admin:tenants_providertoken_act", args=(token.pk, "check_now"))
    answer = owner.post(address, follow=True)
    assert inside == [False]
    assert "all is well" in answer.content.decode()
    assert owner.get(address).status_code == 405
    assert inside == [False]


def test_a_retired_token_stops_its_lanes_and_alarms_nobody(owner: Client, acme: Tenant) -> None:
    with all_tenants():
        lane = factories.LaneFactory.create(tenant=acme)
        token = lane.token
        open_incident(tenant_id=acme.pk, kind="token", scope=f"token:{token.pk}", summary="it is dead")
    act = partial(reverse, "admin:tenants_providertoken_act")
    page = owner.post(act(args=(token.pk, "retire")), follow=True).content.decode()
    assert "Lanes stopped by it: 1." in page
    assert "Check now" not in page
    with all_tenants():
        token.refresh_from_db()
        lane.refresh_from_db()
        assert (token.state, token.usable) == ("revoked", False)
        assert lane.paused_at is not None
        watch_everything()
        assert not Incident.objects.filter(ended_at=None).exists()
        with pytest.raises(ActionRefused, match="give it a new secret"):
            resume_lane(lane_id=lane.pk)

    change = reverse("admin:tenants_providertoken_change", args=(token.pk,))
    owner.post(change, TOKEN | {"provider": token.provider, "secret": "EAA-another"})
    with all_tenants():
        token.refresh_from_db()
        assert token.retired_at is None


@pytest.mark.django_db(transaction=True)
def test_nobody_asks_the_vendor_about_a_retired_token() -> None:
    with all_tenants():
        token = factories.ProviderTokenFactory.create()
        tokens.retire_token(token_id=token.pk)
    with pytest.raises(ActionRefused, match="retired"):
        tokens.check_token(token_id=token.pk)
    with all_tenants(), pytest.raises(ActionRefused, match="retired already"):
        tokens.retire_token(token_id=token.pk)


@pytest.mark.parametrize("page", ["apikey", "providertoken", "membership"])
def test_an_operator_looks_but_does_not_touch(sign_in: Any, acme: Tenant, page: str) -> None:
    operator = sign_in(acme, "operator")
    assert operator.get(reverse(f"admin:tenants_{page}_changelist")).status_code == 200
    assert operator.get(reverse(f"admin:tenants_{page}_add")).status_code == 403


def test_an_owner_adds_a_person_who_can_sign_in(owner: Client, acme: Tenant) -> None:
    data = {"username": "newcomer", "password": "correct-horse-battery", "role": "viewer"}
    assert owner.post(reverse("admin:tenants_membership_add"), data).status_code == 302
    with all_tenants():
        assert Membership.objects.get(user__username="newcomer").tenant == acme
    newcomer = Client(SERVER_NAME="localhost")
    assert newcomer.login(username="newcomer", password=data["password"])
    assert newcomer.get(reverse("admin:index")).status_code == 200


def test_a_tenant_keeps_an_owner(owner: Client, acme: Tenant) -> None:
    with all_tenants():
        last = Membership.objects.get(role="owner")
    address = reverse("admin:tenants_membership_change", args=(last.pk,))
    answer = owner.post(address, {"role": "viewer"})
    assert "at least one owner" in answer.content.decode()
    owner.post(reverse("admin:tenants_membership_delete", args=(last.pk,)), {"post": "yes"})
    with all_tenants():
        last.refresh_from_db()
    assert last.role == "owner"
