"""What can be done to tenants, their people, keys and secrets. Run under `all_tenants()`, or in the
tenant's own scope where only his rows are touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils.text import slugify
from django.utils.timezone import now

from tenants import keys, secrets
from tenants.api.permissions import SCOPE
from tenants.errors import ActionRefused
from tenants.models import ApiKey, Membership, ProviderToken, Tenant
from tenants.token_settings import SETTINGS, wrong_settings

_SLUG = 70  # leaves room for a number


@dataclass(slots=True, frozen=True)
class Rotation:
    """How many secrets were sealed again, and the tokens whose secret no key opens."""

    rotated: int
    unreadable: tuple[str, ...]


@transaction.atomic
def create_tenant(
    *, name: str, tier: str = Tenant.Tier.STANDARD, timezone: str = "UTC"
) -> tuple[Tenant, str]:
    """Make a tenant with a first API key of every scope; returns both. The key is shown this once."""
    name = name.strip()
    if not name or len(name) > 200 or "\0" in name:
        raise ActionRefused("A tenant needs a name of 1 to 200 characters.", field="name")
    if tier not in Tenant.Tier.values:
        raise ActionRefused(f"There is no tier {tier!r}: {' or '.join(Tenant.Tier.values)}.", field="tier")
    if timezone not in available_timezones():
        raise ActionRefused(
            f"There is no time zone {timezone!r}; one is written like Europe/Vienna.", field="timezone"
        )
    tenant = _insert(name, tier, timezone)
    return tenant, create_api_key(tenant=tenant, name="first key")


def _insert(name: str, tier: str, timezone: str) -> Tenant:
    """Insert under the first free slug; two at once cannot get the same one."""
    base = slugify(name)[:_SLUG].strip("-") or "tenant"
    for number in range(1, 1000):
        slug = base if number == 1 else f"{base}-{number}"
        try:
            with transaction.atomic():
                return Tenant.objects.create(name=name, slug=slug, tier=tier, timezone=timezone)
        except IntegrityError:
            continue
    raise ActionRefused(f"There are too many tenants called {name!r}.", field="name")


def create_api_key(
    *,
    tenant: Tenant,
    name: str = "key",
    scopes: Iterable[str] = ("*",),
    expires_at: datetime | None = None,
) -> str:
    """Make an API key and return it. Only its digest is kept, so it cannot be shown again."""
    wanted = sorted(set(scopes))
    wrong = [scope for scope in wanted if not SCOPE.fullmatch(scope)]
    if wrong or not wanted:
        raise ActionRefused(
            f"{', '.join(wrong) or 'Nothing'} is no scope: write contacts:read, contacts:write …, or *.",
            field="scopes",
        )
    if expires_at is not None and expires_at <= now():
        raise ActionRefused("The key would have expired already.", field="expires_at")
    key, prefix, digest = keys.make_key()
    ApiKey.objects.create(
        tenant=tenant, name=name, prefix=prefix, digest=digest, scopes=wanted, expires_at=expires_at
    )
    return key


def revoke_api_key(*, key_id: int) -> int:
    """Revoke a key at once and for good; returns 0 if it was revoked before."""
    if not ApiKey.objects.filter(pk=key_id).exists():
        raise ActionRefused("There is no such API key.")
    return ApiKey.objects.filter(pk=key_id, revoked_at=None).update(revoked_at=now())


@transaction.atomic
def add_member(*, tenant: Tenant, user: User, role: str = Membership.Role.OPERATOR) -> Membership:
    """Let a person work for a tenant in the admin, or change his role there."""
    if role not in Membership.Role.values:
        raise ActionRefused(f"There is no role {role!r}: {', '.join(Membership.Role.values)}.", field="role")
    User.objects.filter(pk=user.pk).update(is_staff=True)  # or the admin would not let him in
    membership: Membership
    membership, _ = Membership.objects.update_or_create(tenant=tenant, user=user, defaults={"role": role})
    return membership


@transaction.atomic
def create_token(
    *,
    provider: str,
    label: str,
    secret: str,
    tenant: Tenant | None = None,
    config: Any = None,
    hourly_allowance: int | None = None,
    usable_by: Collection[Tenant] = (),
) -> ProviderToken:
    """Keep what a vendor gave to a tenant or, without one, to the platform.

    The platform's own serves the tenants of `usable_by`; none named: every standard tenant.
    """
    config = {} if config is None else config
    if provider not in SETTINGS:
        raise ActionRefused(
            f"There is no provider {provider!r}: {', '.join(sorted(SETTINGS))}.", field="provider"
        )
    if not label.strip() or len(label) > 100 or not label.isprintable():
        raise ActionRefused("A token needs a label of 1 to 100 characters.", field="label")
    if not secret or len(secret) > 4096 or not secret.isprintable():
        raise ActionRefused("A token needs its secret: one line of at most 4096 characters.", field="secret")
    if wrong := wrong_settings(provider, config):
        raise ActionRefused(" ".join(wrong), field="config")
    if hourly_allowance is not None and not 0 <= hourly_allowance < 2**31:
        raise ActionRefused("An allowance is a number of calls an hour.", field="hourly_allowance")
    if tenant is not None and usable_by:
        raise ActionRefused(
            "A tenant's own token serves that tenant alone: only the platform's name whom they serve.",
            field="usable_by",
        )
    token = ProviderToken(
        tenant=tenant, provider=provider, label=label.strip(), hourly_allowance=hourly_allowance
    )
    token.secret = secret
    token.set_config(config)
    try:
        with transaction.atomic():
            token.save()
    except IntegrityError as error:
        if "provider_token_label_once" not in str(error):
            raise
        owner = tenant.name if tenant else "The platform"
        raise ActionRefused(f"{owner} has a token {label!r} for {provider} already.", field="label") from None
    if usable_by:
        token.usable_by.set(usable_by)
    return token


def suspend_tenant(*, tenant_id: int) -> int:
    """Refuse a tenant's keys and people from the next request on; returns 0 if it was suspended before."""
    return _change_state(tenant_id, Tenant.State.ACTIVE, Tenant.State.SUSPENDED)


def reinstate_tenant(*, tenant_id: int) -> int:
    """Let a suspended tenant back in; returns 0 if it was not suspended."""
    return _change_state(tenant_id, Tenant.State.SUSPENDED, Tenant.State.ACTIVE)


def _change_state(tenant_id: int, before: str, after: str) -> int:
    if not Tenant.objects.filter(pk=tenant_id).exists():
        raise ActionRefused(f"There is no tenant {tenant_id}.")
    return Tenant.objects.filter(pk=tenant_id, state=before).update(state=after)


@transaction.atomic
def rotate_token_keys() -> Rotation:
    """Seal every secret again with the first key of TOKEN_KEYS.

    A secret that no key opens is left as it is and named: the key that wrote it is missing.
    """
    rotated, unreadable = 0, []
    for token in ProviderToken.objects.select_for_update(of=("self",)).order_by("pk"):
        try:
            token.sealed_secret = secrets.rotate(token.sealed_secret)
            if token.sealed_config:
                token.sealed_config = secrets.rotate(token.sealed_config)
        except secrets.SecretUnreadable:
            unreadable.append(f"{token} (id {token.pk}, {token.owner_name})")
            continue
        token.save(update_fields=["sealed_secret", "sealed_config"])
        rotated += 1
    return Rotation(rotated, tuple(unreadable))
