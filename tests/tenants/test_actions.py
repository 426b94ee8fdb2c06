"""What is done to tenants, their people and their secrets."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from tenants import secrets
from tenants.actions import (
    add_member,
    create_api_key,
    create_tenant,
    revoke_api_key,
    rotate_token_keys,
    suspend_tenant,
)
from tenants.errors import ActionRefused
from tenants.models import ApiKey, Membership, ProviderToken, Tenant
from tenants.scope import all_tenants, tenant_scope
from tests.factories import ProviderTokenFactory, UserFactory


def test_a_tenant_comes_with_a_key_of_every_scope(db: None) -> None:
    with all_tenants():
        tenant, key = create_tenant(name="  Ünï Corp ", tier="premium", timezone="Europe/Vienna")
        row = ApiKey.objects.get()
    assert (tenant.name, tenant.slug, tenant.tier, tenant.timezone) == (
        "Ünï Corp",
        "uni-corp",
        "premium",
        "Europe/Vienna",
    )
    assert (row.tenant_id, row.scopes) == (tenant.pk, ["*"])
    assert key.startswith(f"tk_{row.prefix}_")


def test_names_may_repeat_and_slugs_do_not(db: None) -> None:
    with all_tenants():
        slugs = [create_tenant(name=name)[0].slug for name in ("Acme", "ACME", "acme!", "日本", "x" * 200)]
    assert slugs == ["acme", "acme-2", "acme-3", "tenant", "x" * 70]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "A", "tier": "gold"}, "tier"),
        ({"name": "A", "timezone": "Mars/Olympus"}, "timezone"),
        ({"name": "A", "timezone": "../../etc/passwd"}, "timezone"),
    ],
)
def test_a_wrong_tenant_is_refused_and_nothing_is_left(db: None, wrong: dict[str, str], field: str) -> None:
    with all_tenants(), pytest.raises(ActionRefused) as refused:
        create_tenant(**wrong)
    assert refused.value.field == field
    assert not Tenant.objects.exists()


def test_a_key_can_be_made_in_the_tenants_own_scope_and_for_no_other(acme: Tenant, bolt: Tenant) -> None:
    with tenant_scope(acme.pk):
        create_api_key(tenant=acme, scopes=["contacts:read", "contacts:read"])
        assert ApiKey.objects.get().scopes == ["contacts:read"]
    with pytest.raises(Exception, match="row-level security"), tenant_scope(acme.pk):
        create_api_key(tenant=bolt)


def test_another_tenants_key_cannot_be_revoked(acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        create_api_key(tenant=bolt)
        key = ApiKey.objects.get()
    with tenant_scope(acme.pk), pytest.raises(ActionRefused):
        revoke_api_key(key_id=key.pk)


def test_a_member_is_added_once_and_his_role_changes(acme: Tenant) -> None:
    user: Any = UserFactory.create()
    with all_tenants():
        add_member(tenant=acme, user=user)
        add_member(tenant=acme, user=user, role="owner")
        assert Membership.objects.get().role == "owner"
        with pytest.raises(ActionRefused):
            add_member(tenant=acme, user=user, role="king")
    user.refresh_from_db()
    assert user.is_staff
    assert not user.is_superuser


def test_suspending_counts_what_it_did(acme: Tenant, bolt: Tenant) -> None:
    assert suspend_tenant(tenant_id=acme.pk) == 1
    assert suspend_tenant(tenant_id=acme.pk) == 0
    bolt.refresh_from_db()
    assert bolt.state == "active"
    with pytest.raises(ActionRefused):
        suspend_tenant(tenant_id=2**40)


# -- rotation

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))


def sealed_with(settings: Any, tenant: Tenant, *keys: str) -> Any:
    settings.TOKEN_KEYS = list(keys)
    with all_tenants():
        return ProviderTokenFactory(tenant=tenant, secret="EAAx", secret_config={"app_secret": "s"})


def test_after_a_rotation_the_new_key_alone_opens_everything(
    acme: Tenant, bolt: Tenant, settings: Any
) -> None:
    for tenant in (acme, bolt):
        sealed_with(settings, tenant, OLD)
    settings.TOKEN_KEYS = [NEW, OLD]
    with all_tenants():
        assert (rotate_token_keys().rotated, rotate_token_keys().unreadable) == (2, ())
    settings.TOKEN_KEYS = [NEW]
    with all_tenants():
        for token in ProviderToken.objects.all():
            assert (token.secret, token.setting("app_secret")) == ("EAAx", "s")


def test_a_secret_that_no_key_opens_is_named_and_left_as_it_is(acme: Tenant, settings: Any) -> None:
    lost = sealed_with(settings, acme, LOST)
    kept = sealed_with(settings, acme, OLD)
    settings.TOKEN_KEYS = [NEW, OLD]
    with all_tenants():
        rotation = rotate_token_keys()
        assert rotation.rotated == 1
        assert len(rotation.unreadable) == 1
        assert lost.label in rotation.unreadable[0]
        row = ProviderToken.objects.get(pk=lost.pk)
        assert row.sealed_secret == lost.sealed_secret
        with pytest.raises(secrets.SecretUnreadable):
            row.secret  # noqa: B018
        assert ProviderToken.objects.get(pk=kept.pk).secret == "EAAx"
