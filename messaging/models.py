"""What goes out: senders, templates, broadcasts in ordered steps, and one message per contact."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now
from django.utils.timezone import now

from campaigns.models import Campaign, Contact
from engine.models import Lane, QueueItem
from messaging.querysets import BroadcastQuerySet, MessageQuerySet
from tenants.json_columns import json_is
from tenants.models import ProviderToken, Tenant
from tenants.scope import TenantManager, TenantOwned


class Sender(TenantOwned):
    """An address that messages leave from. Its lane holds the vendor's rate."""

    class Kind(models.TextChoices):
        WHATSAPP = "whatsapp", "WhatsApp"
        SMS = "sms", "SMS"

    provider_token = models.ForeignKey(
        ProviderToken, on_delete=models.PROTECT, related_name="senders", db_constraint=False
    )
    kind = models.CharField(max_length=16, choices=Kind)
    address = models.CharField(max_length=64, help_text="WhatsApp: the phone number id. SMS: the short code.")
    display_number = models.CharField(
        max_length=32, blank=True, help_text="As people see it; some of the vendor's notices name only this."
    )
    label = models.CharField(max_length=100, blank=True)
    rate_per_second = models.FloatField(default=80)
    in_doubt_minutes = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="After so many minutes without any word of the vendor, a message in doubt counts as not "
        "sent and is sent again, at most twice. Whoever got the first one then gets it twice. Empty (as it "
        "should be unless missing one is worse): a person decides. 5 minutes to 7 days; statuses normally "
        "come within seconds.",
    )
    quality = models.CharField(max_length=16, blank=True, editable=False)
    lane = models.OneToOneField(
        Lane, on_delete=models.PROTECT, related_name="sender", db_constraint=False, editable=False
    )
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [
            # a vendor's address belongs to one tenant: webhooks are routed by it
            models.UniqueConstraint(fields=["kind", "address"], name="sender_address_once"),
            models.UniqueConstraint(fields=["tenant", "id"], name="sender_of_tenant"),
            models.CheckConstraint(condition=Q(rate_per_second__gt=0), name="sender_rate_positive"),
            models.CheckConstraint(
                condition=Q(in_doubt_minutes__isnull=True)
                | Q(in_doubt_minutes__gte=5, in_doubt_minutes__lte=10080),
                name="sender_doubts_for_a_while",
                violation_error_message="Write 5 to 10,080 minutes (7 days), or leave it empty.",
            ),
        ]

    def __str__(self) -> str:
        return self.label or self.address


class MessageTemplate(TenantOwned):
    """A text that the vendor has approved, with the names of its variables in order."""

    class Category(models.TextChoices):
        MARKETING = "marketing"
        UTILITY = "utility"
        AUTHENTICATION = "authentication"

    class State(models.TextChoices):
        APPROVED = "approved"
        PENDING = "pending"
        REJECTED = "rejected"
        PAUSED = "paused"
        DISABLED = "disabled"

    name = models.CharField(max_length=512)
    language = models.CharField(max_length=16, default="en_US")
    category = models.CharField(max_length=16, choices=Category, default=Category.MARKETING)
    body = models.TextField(help_text="Variables stand as {{1}}, {{2}} …, in the order of `variables`.")
    variables = models.JSONField(
        default=list,
        blank=True,
        help_text='Where each variable comes from: "name", "phone", "email", "external_id" or '
        '"attributes.<key>"; or {"from": …, "default": …}.',
    )
    components = models.JSONField(
        default=list, blank=True, help_text="Header and button components, sent as they stand."
    )
    state = models.CharField(max_length=16, choices=State, default=State.APPROVED)
    state_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When the vendor said so: its notices come in any order.",
    )
    quality = models.CharField(max_length=16, blank=True, editable=False)
    vendor_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["name", "language"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name", "language"], name="template_once"),
            models.UniqueConstraint(fields=["tenant", "id"], name="template_of_tenant"),
            models.CheckConstraint(
                condition=json_is("variables", "array"), name="template_variables_are_a_list"
            ),
            models.CheckConstraint(
                condition=json_is("components", "array"), name="template_components_are_a_list"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.language})"


class Broadcast(TenantOwned):
    """Templates sent to an audience, step by step. The audience is frozen at launch."""

    class State(models.TextChoices):
        DRAFT = "draft"
        SCHEDULED = "scheduled"
        RUNNING = "running"
        PAUSED = "paused"
        COMPLETED = "completed"
        CANCELLED = "cancelled"

    class PauseReason(models.TextChoices):
        OPERATOR = "operator"
        SPAM = "spam"
        FAILURES = "failures"
        TOKEN = "token"  # noqa: S105 - why it paused, no secret
        BILLING = "billing"
        TEMPLATE = "template"
        FAULT = "fault", "fault (our own code failed)"

    campaign = models.ForeignKey(
        Campaign, on_delete=models.PROTECT, related_name="broadcasts", db_constraint=False
    )
    sender = models.ForeignKey(
        Sender, on_delete=models.PROTECT, related_name="broadcasts", db_constraint=False
    )
    name = models.CharField(max_length=200)
    audience = models.JSONField(help_text='{"all": true}, {"segment": id} or {"contacts": [external_id, …]}')
    scheduled_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT, editable=False)
    pause_reason = models.CharField(max_length=16, choices=PauseReason, blank=True, editable=False)
    pause_detail = models.TextField(blank=True, editable=False)
    excluded = models.JSONField(
        default=dict, editable=False, help_text="Why contacts were left out, counted."
    )
    total = models.PositiveIntegerField(default=0, editable=False)
    launched_at = models.DateTimeField(null=True, blank=True, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = TenantManager.from_queryset(BroadcastQuerySet)()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "id"], name="broadcast_of_tenant"),
            models.CheckConstraint(
                condition=Q(state="paused") & ~Q(pause_reason="") | ~Q(state="paused") & Q(pause_reason=""),
                name="broadcast_paused_for_a_reason",
            ),
            models.CheckConstraint(
                condition=json_is("audience", "object"), name="broadcast_audience_is_an_object"
            ),
        ]
        indexes = [
            # the minute's tick launches what is due
            models.Index(fields=["scheduled_at"], name="broadcast_due", condition=Q(state="scheduled"))
        ]

    def __str__(self) -> str:
        return self.name


class BroadcastStep(TenantOwned):
    """One template of a broadcast and its share of the audience. Steps go out one after the other.

    `frozen` is what the launch found, and all that is read of the template from then on:
    `{"name": str, "language": str, "category": str, "components": list[dict]}`, components as in
    `schemas.components_of`. `{}` until the launch.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        PAUSED = "paused"
        DONE = "done"

    broadcast = models.ForeignKey(
        Broadcast, on_delete=models.CASCADE, related_name="steps", db_constraint=False
    )
    position = models.PositiveSmallIntegerField()
    template = models.ForeignKey(
        MessageTemplate, on_delete=models.PROTECT, related_name="+", db_constraint=False
    )
    share = models.PositiveSmallIntegerField(help_text="Percent of the audience.")
    state = models.CharField(max_length=8, choices=State, default=State.WAITING, editable=False)
    pause_detail = models.TextField(blank=True, editable=False)
    frozen = models.JSONField(
        default=dict,
        db_default=Value({}, models.JSONField()),  # for rows that older code writes
        editable=False,
        help_text="The template as it was at launch: this is what is sent.",
    )
    watch = models.JSONField(
        default=dict,
        editable=False,
        help_text="Where the window of `refuse_after_failures` began: counts then, and the share before.",
    )

    class Meta:
        ordering = ["broadcast", "position"]
        constraints = [
            models.UniqueConstraint(fields=["broadcast", "position"], name="step_position_once"),
            models.UniqueConstraint(fields=["tenant", "id"], name="step_of_tenant"),
            models.CheckConstraint(condition=Q(share__gte=1, share__lte=100), name="step_share_is_percent"),
            models.CheckConstraint(condition=json_is("frozen", "object"), name="step_frozen_is_an_object"),
        ]

    def __str__(self) -> str:
        return f"step {self.position} of {self.broadcast_id}"


class Message(QueueItem):
    """One template to one contact, frozen at launch, and what the vendor said of it.

    The times are each set by its own status, in whatever order they come; `state` is the strongest
    of them: read over delivered over failed over sent over accepted.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        CLAIMED = "claimed"
        SENDING = "sending"
        ACCEPTED = "accepted"
        SENT = "sent"
        DELIVERED = "delivered"
        READ = "read"
        FAILED = "failed"
        IN_DOUBT = "in_doubt"
        SUPPRESSED = "suppressed"
        CANCELLED = "cancelled"

    OPEN = (State.QUEUED, State.CLAIMED, State.SENDING)
    ON_ITS_WAY = (State.ACCEPTED, State.SENT, State.DELIVERED, State.READ)

    # the busiest table: only the indexes below, so these have none of their own
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    lane = models.ForeignKey(
        Lane, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    broadcast = models.ForeignKey(
        Broadcast, on_delete=models.CASCADE, related_name="messages", db_constraint=False, db_index=False
    )
    step = models.ForeignKey(
        BroadcastStep, on_delete=models.CASCADE, related_name="messages", db_constraint=False, db_index=False
    )
    contact = models.ForeignKey(
        Contact, on_delete=models.CASCADE, related_name="messages", db_constraint=False, db_index=False
    )
    phone = models.CharField(max_length=16, help_text="E.164, frozen at launch.")
    parameters = models.JSONField(default=list, help_text="The template's variables, filled in at launch.")
    wamid = models.CharField(max_length=128, blank=True)
    vendor_status = models.CharField(max_length=40, blank=True)
    accepted_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    dismissed = ArrayField(
        models.UUIDField(),
        null=True,
        editable=False,
        help_text="Attempts that the vendor failed and that were tried again: its late word changes nothing.",
    )
    created_at = models.DateTimeField(default=now, editable=False)

    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)

    objects = TenantManager.from_queryset(MessageQuerySet)()

    class Meta:
        ordering = ["-id"]
        constraints = [
            # in this order it also finds a contact's messages
            models.UniqueConstraint(fields=["contact", "broadcast"], name="message_once_per_contact")
        ]
        indexes = [
            # the claim: what is due on a lane, step by step
            models.Index(
                fields=["lane", "step", "due_at", "id"], name="message_due", condition=Q(state="queued")
            ),
            # what a dead runner left, and what is left of a step
            models.Index(
                fields=["lane", "step"], name="message_in_hand", condition=Q(state__in=["claimed", "sending"])
            ),
            # what a person must decide
            models.Index(fields=["tenant", "id"], name="message_in_doubt", condition=Q(state="in_doubt")),
            # statuses that carry no attempt
            models.Index(fields=["wamid"], name="message_wamid", condition=~Q(wamid="")),
            # the latest failures of a step, and what can be tried again
            models.Index(fields=["step", "-failed_at"], name="message_failed", condition=Q(state="failed")),
            models.Index(fields=["tenant", "-id"], name="message_latest"),
            # pages of one broadcast, however old it is
            models.Index(fields=["broadcast", "-id"], name="message_of_broadcast"),
        ]

    def __str__(self) -> str:
        return f"message {self.pk}"


class MessageTally(models.Model):
    """Counts of a step's messages by state, as changes: the sum of `n` is the count.

    Written by a trigger on every statement that touches messages, so it cannot drift, and appended to,
    never updated, so writers do not wait for each other. `compact_tallies` folds it.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    broadcast = models.ForeignKey(
        Broadcast, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    step = models.ForeignKey(
        BroadcastStep, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    state = models.CharField(max_length=16)
    n = models.IntegerField()
    at = models.DateTimeField(db_default=Now(), help_text="Tells the rate of the last seconds.")

    objects = TenantManager()

    class Meta:
        indexes = [
            models.Index(fields=["broadcast", "step", "state"], name="tally_of_step", include=["n", "at"])
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.n:+d}"


class Suppression(TenantOwned):
    """Somebody who must not be written to. Checked at launch and again as each message leaves."""

    class Channel(models.TextChoices):
        WHATSAPP = "whatsapp", "WhatsApp"
        WHATSAPP_MARKETING = "whatsapp_marketing", "WhatsApp, marketing only"
        SMS = "sms", "SMS"
        ALL = "all", "all channels"

    phone = models.CharField(max_length=16)
    channel = models.CharField(max_length=24, choices=Channel, default=Channel.ALL)
    reason = models.CharField(max_length=200)
    contact = models.ForeignKey(
        Contact, null=True, blank=True, on_delete=models.SET_NULL, related_name="suppressions"
    )
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "phone", "channel"], name="suppression_once")
        ]

    def __str__(self) -> str:
        return f"{self.phone} ({self.channel})"


class Correspondent(TenantOwned):
    """Somebody on the other side: the vendor's id for them, and when they last chose what they get.

    Stop and start come in any order and many times; the later one counts, whichever arrives last.
    """

    phone = models.CharField(max_length=16)
    user_id = models.CharField(max_length=128, blank=True, help_text="People may be known by this alone.")
    chose_at = models.DateTimeField(null=True, blank=True)
    chose_marketing_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "phone"], name="correspondent_once")]
        indexes = [
            # notices that name a user id only
            models.Index(fields=["tenant", "user_id"], name="correspondent_user_id", condition=~Q(user_id=""))
        ]

    def __str__(self) -> str:
        return self.phone
