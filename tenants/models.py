"""Who: tenants, the people and keys that act for them, and the tokens that vendors gave them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.timezone import now

from tenants import secrets
from tenants.querysets import ProviderTokenQuerySet
from tenants.scope import TenantManager, TenantOrPlatformOwned, TenantOwned
from tenants.token_settings import SECRET_SETTINGS


class Tenant(models.Model):
    """A customer of ours. Everything below belongs to one."""

    class Tier(models.TextChoices):
        STANDARD = "standard"
        PREMIUM = "premium"

    class State(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"

    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=80, unique=True)
    tier = models.CharField(max_length=16, choices=Tier, default=Tier.STANDARD)
    timezone = models.CharField(max_length=64, default="UTC")
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["name"]
        permissions = [("see_all_tenants", "Platform staff: may see and work for every tenant")]

    def __str__(self) -> str:
        return self.name


class Membership(TenantOwned):
    """A person who works for a tenant in the admin."""

    class Role(models.TextChoices):
        OWNER = "owner"
        OPERATOR = "operator"
        VIEWER = "viewer"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.OPERATOR)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "user"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class ApiKey(TenantOwned):
    """A key of a tenant's own systems. Only its SHA-256 is kept; the key itself is shown once."""

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    created_at = models.DateTimeField(default=now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class ApiKeyWindow(models.Model):
    """How much a key was used in this minute and the one before: its throttle, shared by all processes.

    Kept apart from the key, and unlogged (`0004_walls`): it changes with every request and may be lost.
    """

    key = models.OneToOneField(ApiKey, on_delete=models.CASCADE, primary_key=True, related_name="+")
    started_at = models.DateTimeField()
    used = models.PositiveIntegerField()
    used_before = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.used} since {self.started_at:%H:%M}"


class IdempotentRequest(TenantOwned):
    """The answer to a POST that carried an `Idempotency-Key`, kept for a day so that it can be given again.

    Written in the request's own transaction: an answer is kept if and only if what it says happened.
    """

    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, address and body.")
    status = models.PositiveSmallIntegerField(null=True)
    body = models.BinaryField(default=b"")
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "key"], name="idempotency_key_once")]
        indexes = [models.Index(fields=["created_at"], name="idempotent_request_age")]  # to forget old ones

    def __str__(self) -> str:
        return self.key


_providers: list[tuple[str, str]] = []


def register_providers(names: Iterable[tuple[str, str]]) -> None:
    """Say which vendors there are, as (name, label): `tenants` knows none. Called once, by `config`."""
    _providers[:] = names


def provider_names() -> list[tuple[str, str]]:
    """List the vendors, as (name, label). A callable, so that a new vendor needs no migration."""
    return list(_providers)


class ProviderToken(TenantOrPlatformOwned):
    """What a vendor gave a tenant, or the platform, to act with. The secret is sealed at rest and never
    shown again.

    The platform's own (`tenant` empty) serve several tenants: all standard ones, or those of `usable_by`.
    """

    class State(models.TextChoices):
        ACTIVE = "active"
        THROTTLED = "throttled"
        EXPIRED = "expired"
        REVOKED = "revoked"
        FAILING = "failing"

    usable_by = models.ManyToManyField(
        Tenant,
        blank=True,
        related_name="+",
        help_text="Of a platform-owned token: the tenants it serves; none named: every standard tenant.",
    )
    provider = models.CharField(max_length=32, choices=provider_names)
    label = models.CharField(max_length=100)
    sealed_secret = models.TextField(editable=False)
    config = models.JSONField(default=dict, blank=True, help_text="What the vendor needs beside the secret.")
    sealed_config = models.TextField(blank=True, editable=False)
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    hourly_allowance = models.PositiveIntegerField(
        null=True, blank=True, help_text="Calls an hour; empty: no limit."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    retired_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When our own staff took it out of use."
    )
    last_error = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = TenantManager.from_queryset(ProviderTokenQuerySet)()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "provider", "label"], name="provider_token_label_once", nulls_distinct=False
            ),
            models.UniqueConstraint(fields=["tenant", "id"], name="provider_token_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.get_provider_display()}: {self.label}"

    @property
    def owner_name(self) -> str:
        return f"tenant {self.tenant_id}" if self.tenant_id else "the platform's own"

    @property
    def secret(self) -> str:
        return secrets.decrypt(self.sealed_secret)

    @secret.setter
    def secret(self, plain: str) -> None:
        self.sealed_secret, self.retired_at = secrets.encrypt(plain), None

    @property
    def secret_config(self) -> dict[str, Any]:
        """Those of `SECRET_SETTINGS` that this token has, opened: {"app_secret": …, "verify_token": …}."""
        opened: dict[str, Any] = json.loads(secrets.decrypt(self.sealed_config)) if self.sealed_config else {}
        return opened

    @secret_config.setter
    def secret_config(self, plain: dict[str, Any]) -> None:
        self.sealed_config = secrets.encrypt(json.dumps(plain)) if plain else ""

    @property
    def shown_config(self) -> dict[str, Any]:
        """`config` as people see it: sealed settings by name alone, null instead of their value."""
        try:
            sealed = dict.fromkeys(self.secret_config)
        except secrets.SecretUnreadable:
            sealed = {}
        return {**self.config, **sealed}

    def set_config(self, config: dict[str, Any]) -> None:
        """Take a whole new config and seal what is secret in it: null leaves a sealed setting, "" removes it.

        Does not look whether the settings are right (`token_settings.wrong_settings`), and does not save.
        """
        sent = {name: config[name] for name in SECRET_SETTINGS if name in config}
        kept = self.secret_config if None in sent.values() else {}
        self.secret_config = {
            name: kept[name] if value is None else value
            for name, value in sent.items()
            if value or (value is None and name in kept)
        }
        self.config = {name: value for name, value in config.items() if name not in SECRET_SETTINGS}

    def setting(self, name: str, default: Any = None) -> Any:
        """Read one setting, whether it is kept openly in `config` or sealed."""
        found = self.secret_config if name in SECRET_SETTINGS else self.config
        return found.get(name, default)

    @property
    def usable(self) -> bool:
        return self.state in (self.State.ACTIVE, self.State.THROTTLED) and (
            self.expires_at is None or self.expires_at > now()
        )


class VendorAccount(TenantOrPlatformOwned):
    """An account at a vendor (a WABA, a Page) that a tenant has proved to be its own, with its own token.

    One account belongs to one tenant: what the vendor says of it by webhook reaches that tenant alone.
    """

    provider = models.CharField(max_length=32)
    account_id = models.CharField(max_length=64)
    proved_at = models.DateTimeField(default=now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "account_id"], name="vendor_account_once")]

    def __str__(self) -> str:
        return f"{self.provider} {self.account_id}"
