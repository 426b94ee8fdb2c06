"""What for and for whom: campaigns, contacts and ways to choose among them, and the spin ledger."""

from __future__ import annotations

from django.db import models
from django.utils.timezone import now

from campaigns.querysets import ContactQuerySet
from tenants.json_columns import json_is
from tenants.scope import TenantManager, TenantOwned


class Campaign(TenantOwned):
    """What a tenant runs for a while, within a budget in minor units of its currency."""

    class State(models.TextChoices):
        DRAFT = "draft"
        ACTIVE = "active"
        PAUSED = "paused"
        COMPLETED = "completed"

    name = models.CharField(max_length=200)
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT)
    starts_at = models.DateTimeField(null=True, blank=True)
    ends_at = models.DateTimeField(null=True, blank=True)
    budget = models.PositiveBigIntegerField(default=0, help_text="In minor units: 12.50 EUR is 1250.")
    currency = models.CharField(max_length=3, default="EUR")
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "id"], name="campaign_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "name"], name="campaign_name_once"),
            models.CheckConstraint(
                condition=models.Q(ends_at__isnull=True)
                | models.Q(starts_at__isnull=True)
                | models.Q(ends_at__gt=models.F("starts_at")),
                name="campaign_ends_after_start",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Contact(TenantOwned):
    """A person whom a tenant may reach. `phone` is E.164, `email` lower case: both are searched with `=`."""

    external_id = models.CharField(max_length=128)
    phone = models.CharField(max_length=16, blank=True)
    email = models.CharField(max_length=254, blank=True)
    name = models.CharField(max_length=200, blank=True)
    timezone = models.CharField(max_length=64, blank=True)
    attributes = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=now, editable=False)
    updated_at = models.DateTimeField(default=now, editable=False)

    objects = TenantManager.from_queryset(ContactQuerySet)()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "external_id"], name="contact_external_id_once"),
            models.UniqueConstraint(fields=["tenant", "id"], name="contact_of_tenant"),
            models.CheckConstraint(
                condition=json_is("attributes", "object"), name="contact_attributes_are_an_object"
            ),
        ]
        indexes = [
            # webhooks and suppressions find a person by phone; e-mail attributes clicks
            models.Index(fields=["tenant", "phone"], name="contact_phone", condition=~models.Q(phone="")),
            models.Index(fields=["tenant", "email"], name="contact_email", condition=~models.Q(email="")),
        ]

    def __str__(self) -> str:
        return self.name or self.external_id


class SocialAccount(TenantOwned):
    """A contact's account on a platform; `user_id` is scoped to the page or media account that saw it."""

    class Platform(models.TextChoices):
        FACEBOOK = "facebook"
        INSTAGRAM = "instagram"
        TIKTOK = "tiktok"
        YOUTUBE = "youtube"

    contact = models.ForeignKey(
        Contact, on_delete=models.CASCADE, related_name="accounts", db_constraint=False
    )
    platform = models.CharField(max_length=16, choices=Platform)
    user_id = models.CharField(max_length=64, blank=True)
    username = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "platform", "user_id"],
                name="social_account_user_id_once",
                condition=~models.Q(user_id=""),
            ),
            models.UniqueConstraint(
                fields=["tenant", "platform", "username"],
                name="social_account_username_once",
                condition=~models.Q(username=""),
            ),
            models.CheckConstraint(
                condition=~models.Q(user_id="", username=""), name="social_account_has_a_name"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.platform}: {self.username or self.user_id}"


class Segment(TenantOwned):
    """Contacts chosen by rules over fields and attributes, compiled to one query (`campaigns.segments`)."""

    name = models.CharField(max_length=200)
    rules = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "id"], name="segment_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "name"], name="segment_name_once"),
            models.CheckConstraint(condition=json_is("rules", "object"), name="segment_rules_are_an_object"),
        ]

    def __str__(self) -> str:
        return self.name


class Cohort(TenantOwned):
    """Contacts chosen once and kept: a list that does not change when their attributes do."""

    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=now, editable=False)
    contacts = models.ManyToManyField(Contact, through="CohortMember", related_name="cohorts")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "id"], name="cohort_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "name"], name="cohort_name_once"),
        ]

    def __str__(self) -> str:
        return self.name


class CohortMember(TenantOwned):
    """One contact's place in one cohort."""

    cohort = models.ForeignKey(Cohort, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, related_name="+", db_constraint=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cohort", "contact"], name="cohort_member_once")]

    def __str__(self) -> str:
        return f"{self.contact_id} in {self.cohort_id}"


class SpinEntry(TenantOwned):
    """One line of the spin ledger, never changed: won (+), spent or taken back (-).

    `source` names what caused it, e.g. `completion:17`, and one source counts once per reason.
    """

    class Reason(models.TextChoices):
        WON = "won"
        SPENT = "spent"
        REVOKED = "revoked"
        ADJUSTED = "adjusted"

    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, related_name="spins", db_constraint=False)
    spins = models.IntegerField()
    reason = models.CharField(max_length=16, choices=Reason)
    source = models.CharField(max_length=80)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "source", "reason"], name="spin_entry_once"),
            models.CheckConstraint(
                condition=models.Q(reason="won", spins__gt=0)
                | models.Q(reason__in=["spent", "revoked"], spins__lt=0)
                | models.Q(reason="adjusted") & ~models.Q(spins=0),
                name="spin_entry_sign_fits_reason",
            ),
        ]
        indexes = [models.Index(fields=["tenant", "contact", "campaign"], name="spin_entry_balance")]

    def __str__(self) -> str:
        return f"{self.spins:+d} {self.reason}"
