"""Who: tenants, the people and keys that act for them, and the tokens that vendors gave them."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.timezone import now

from tenants import secrets
from tenants.scope import TenantOwned


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


def provider_names() -> list[tuple[str, str]]:
    """The vendors of the contract. A callable, so that a new vendor needs no migration."""
    return [
        ("whatsapp", "WhatsApp"),
        ("meta", "Meta Graph"),
        ("lime", "Lime SMS"),
        ("apify", "Apify"),
        ("youtube", "YouTube"),
    ]


class ProviderToken(TenantOwned):
    """What a vendor gave a tenant to act with. The secret is sealed at rest and never shown again."""

    class State(models.TextChoices):
        ACTIVE = "active"
        THROTTLED = "throttled"
        EXPIRED = "expired"
        REVOKED = "revoked"
        FAILING = "failing"

    provider = models.CharField(max_length=32, choices=provider_names)
    label = models.CharField(max_length=100)
    sealed_secret = models.TextField(editable=False)
    config = models.JSONField(default=dict, blank=True, help_text="What the vendor needs beside the secret.")
    state = models.CharField(max_length=16, choices=State, default=State.ACTIVE)
    hourly_allowance = models.PositiveIntegerField(
        null=True, blank=True, help_text="Calls an hour; empty: no limit."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "provider", "label"], name="provider_token_label_once"),
            models.UniqueConstraint(fields=["tenant", "id"], name="provider_token_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.get_provider_display()}: {self.label}"

    @property
    def secret(self) -> str:
        return secrets.decrypt(self.sealed_secret)

    @secret.setter
    def secret(self, plain: str) -> None:
        self.sealed_secret = secrets.encrypt(plain)

    @property
    def usable(self) -> bool:
        return self.state in (self.State.ACTIVE, self.State.THROTTLED) and (
            self.expires_at is None or self.expires_at > now()
        )
