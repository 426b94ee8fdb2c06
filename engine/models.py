"""How batches run: lanes, runs, incidents, receipts, and the columns of every queued row."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.timezone import now

from engine.querysets import LaneQuerySet
from tenants.scope import TenantManager, TenantOrPlatformOwned, TenantOwned, TenantQuerySet


class Lane(TenantOrPlatformOwned):
    """One thing that a vendor limits: a WhatsApp number, a Lime account, a Meta token, an Apify account.

    Drained by one runner at a time, the holder of its lease, however many workers there are: that is what
    makes a limit per second exact without anything shared but this row. A lane of the platform's own is
    worked on behalf of several tenants.
    """

    class Breaker(models.TextChoices):
        CLOSED = "closed"
        OPEN = "open"
        HALF_OPEN = "half_open", "half open (one call at a time)"

    queue = models.CharField(max_length=32)
    processor = models.CharField(
        max_length=32, help_text="Which of the queue's processors drains it: a lane belongs to one."
    )
    name = models.CharField(max_length=120, help_text="What the vendor limits, e.g. a phone number id.")
    token = models.ForeignKey(
        "tenants.ProviderToken", on_delete=models.CASCADE, related_name="lanes", db_constraint=False
    )

    # what the vendor allows
    rate_per_second = models.FloatField(null=True, blank=True, help_text="Empty: as fast as it answers.")
    rate_now = models.FloatField(
        null=True, blank=True, editable=False, help_text="Cut by throttling, grows back."
    )
    refused_rate = models.FloatField(
        null=True, blank=True, editable=False, help_text="The rate at which the vendor last refused many."
    )
    max_in_flight = models.PositiveIntegerField(
        null=True, blank=True, help_text="Empty: one second of the rate."
    )

    # what holds it back
    breaker = models.CharField(max_length=12, choices=Breaker, default=Breaker.CLOSED, editable=False)
    open_until = models.DateTimeField(null=True, blank=True, editable=False)
    grouped = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Departures leave in groups."
    )
    openings = models.PositiveSmallIntegerField(
        default=0, editable=False, help_text="How often the breaker opened in a row: each rest is longer."
    )
    paused_at = models.DateTimeField(null=True, blank=True, editable=False)
    pause_reason = models.CharField(max_length=32, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)

    # the lease
    holder = models.BigIntegerField(null=True, editable=False, help_text="The run that drains it.")
    leased_until = models.DateTimeField(null=True, editable=False)
    paced_until = models.DateTimeField(
        null=True, editable=False, help_text="The next holder's first send: spacing survives a hand-over."
    )

    objects = TenantManager.from_queryset(LaneQuerySet)()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["processor", "tenant", "name"], name="lane_once", nulls_distinct=False
            ),
            models.UniqueConstraint(fields=["tenant", "id"], name="lane_of_tenant"),
            models.CheckConstraint(
                condition=Q(rate_per_second__isnull=True) | Q(rate_per_second__gt=0),
                name="lane_rate_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.queue}: {self.name}"


class Allowance(TenantOrPlatformOwned):
    """What a vendor lets one token spend in a window. Shared by every lane on the token.

    What was spent is kept in slots (`AllowanceUse`), what a runner holds but has not spent in
    `AllowanceHold`; the rest may still be reserved.
    """

    class Window(models.TextChoices):
        HOUR = "hour", "any hour"
        DAY = "day", "any 24 hours"
        CALENDAR_DAY = "calendar_day", "the vendor's day"
        CALENDAR_MONTH = "calendar_month", "the vendor's month"

    token = models.ForeignKey(
        "tenants.ProviderToken", on_delete=models.CASCADE, related_name="allowances", db_constraint=False
    )
    unit = models.CharField(max_length=16, default="calls", help_text="calls, recipients, usd_cents, units.")
    limit = models.PositiveIntegerField(help_text="How many of the unit in the window.")
    window = models.CharField(max_length=16, choices=Window, default=Window.HOUR)
    timezone = models.CharField(
        max_length=64, default="UTC", help_text="Where the vendor's day or month begins."
    )
    blocked_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="The vendor's word: nothing before this."
    )
    said_used = models.PositiveIntegerField(
        null=True, blank=True, editable=False, help_text="What the vendor last said was used."
    )
    said_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["token", "unit", "window"], name="allowance_once"),
        ]

    def __str__(self) -> str:
        return f"{self.limit:,} {self.unit} in {self.get_window_display()}"


class AllowanceLeft(models.Model):
    """A view over an allowance: what of it is spent, held and left now, and when some of it comes back."""

    token_id = models.BigIntegerField()
    unit = models.CharField(max_length=16)
    limit = models.IntegerField()
    window = models.CharField(max_length=16, choices=Allowance.Window)
    spent = models.IntegerField()
    held = models.IntegerField()
    left_over = models.IntegerField()
    resets_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "engine_allowanceleft"

    def __str__(self) -> str:
        return f"{self.left_over:,} of {self.limit:,} {self.unit}"


class AllowanceUse(models.Model):
    """What was spent of an allowance in one slot of time: a minute of an hour, half an hour of a day."""

    allowance = models.ForeignKey(Allowance, on_delete=models.CASCADE, related_name="uses")
    tenant_id = models.BigIntegerField(help_text="On whose behalf; 0: nobody's in particular.")
    slot = models.DateTimeField(help_text="When the slot begins.")
    spent = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["allowance", "slot", "tenant_id"], name="allowance_use_once")
        ]

    def __str__(self) -> str:
        return f"{self.spent} in {self.slot:%H:%M}"


class AllowanceHold(models.Model):
    """What a lane's runner has reserved of an allowance and not spent yet; gone with its lease."""

    allowance = models.ForeignKey(Allowance, on_delete=models.CASCADE, related_name="holds")
    lane = models.ForeignKey(Lane, on_delete=models.CASCADE, related_name="+")
    held = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["allowance", "lane"], name="allowance_hold_once")]

    def __str__(self) -> str:
        return f"{self.held} held"


class FlowHold(models.Model):
    """A flow of which nothing is claimed until a person lets it go on."""

    processor = models.CharField(max_length=32)
    flow = models.BigIntegerField()
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")
    reason = models.CharField(max_length=32)
    detail = models.TextField(blank=True)
    held_at = models.DateTimeField(default=now)

    objects = TenantManager.from_queryset(TenantQuerySet)()

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["processor", "flow"], name="flow_held_once")]

    def __str__(self) -> str:
        return f"{self.processor} {self.flow}: {self.reason}"


class Run(models.Model):
    """One turn of a queue's processor, told truthfully: what it took, what became of it, how fast."""

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        LOST = "lost", "lost (its process died)"

    queue = models.CharField(max_length=32)
    processor = models.CharField(max_length=32, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.RUNNING)
    process = models.CharField(max_length=120, help_text="host:pid")
    lanes = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(default=now)
    beat_at = models.DateTimeField(default=now)
    ended_at = models.DateTimeField(null=True, blank=True)
    claimed = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(default=0)
    continued = models.PositiveIntegerField(default=0)
    retried = models.PositiveIntegerField(default=0)
    throttled = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    in_doubt = models.PositiveIntegerField(default=0)
    held = models.PositiveIntegerField(default=0)
    given_back = models.PositiveIntegerField(default=0)
    overtaken = models.PositiveIntegerField(
        default=0, help_text="Settled by somebody else meanwhile; left alone."
    )
    calls = models.PositiveIntegerField(default=0)
    facts = models.PositiveIntegerField(default=0, help_text="What the replies taught.")
    decided = models.PositiveIntegerField(default=0, help_text="Rows that those facts decided.")
    batch_size = models.PositiveIntegerField(default=0)
    queue_before = models.PositiveIntegerField(default=0)
    queue_after = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["queue", "-id"], name="run_latest"),
            # the supervisor closes runs whose process died
            models.Index(fields=["beat_at"], name="run_open", condition=Q(state="running")),
            # what went wrong, in the admin: few among many
            models.Index(fields=["-id"], name="run_wrong", condition=Q(state__in=["failed", "lost"])),
        ]

    def __str__(self) -> str:
        return f"run {self.pk} of {self.queue}"

    @property
    def seconds(self) -> float:
        return ((self.ended_at or now()) - self.started_at).total_seconds()

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def decided_per_call(self) -> float:
        return self.decided / self.calls if self.calls else 0.0


class Incident(models.Model):
    """Something a person should know, open until it is over. One open row per tenant, kind and scope."""

    class Severity(models.TextChoices):
        WARNING = "warning"
        CRITICAL = "critical"

    tenant = models.ForeignKey(
        "tenants.Tenant", null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    kind = models.CharField(max_length=40)
    scope = models.CharField(max_length=120, help_text="What it is about, e.g. lane:7.")
    severity = models.CharField(max_length=8, choices=Severity, default=Severity.WARNING)
    summary = models.CharField(max_length=300)
    opened_at = models.DateTimeField(default=now)
    seen_at = models.DateTimeField(default=now)
    ended_at = models.DateTimeField(null=True, blank=True)
    told_open_at = models.DateTimeField(null=True, blank=True, editable=False)
    told_ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TenantManager.from_queryset(TenantQuerySet)()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "kind", "scope"],
                name="incident_open_once",
                condition=Q(ended_at__isnull=True),
                nulls_distinct=False,
            )
        ]

    def __str__(self) -> str:
        return self.summary


class Receipt(models.Model):
    """A webhook as it came: verified, stored, answered; applied later by the `events` queue."""

    provider = models.CharField(max_length=32)
    tenant = models.ForeignKey(
        "tenants.Tenant",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        db_index=False,
        help_text="Whose own app signed it, and so all that it may change; empty: the platform's.",
    )
    body = models.BinaryField()
    size = models.PositiveIntegerField(default=0, db_default=0, help_text="Bytes of the body.")
    received_at = models.DateTimeField(default=now)
    applied_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(default=now)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            # what the events queue has still to apply
            models.Index(fields=["due_at", "id"], name="receipt_due", condition=Q(applied_at__isnull=True)),
            # those old enough to forget
            models.Index(
                fields=["applied_at"], name="receipt_applied", condition=Q(applied_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider} webhook {self.pk}"


class Heartbeat(models.Model):
    """When a worker of each django-q2 cluster last began a task; a silent cluster is restarted by `run`."""

    cluster = models.CharField(max_length=32, primary_key=True)
    beat_at = models.DateTimeField(default=now)
    process = models.CharField(max_length=120)

    def __str__(self) -> str:
        return self.cluster


class TickRequest(models.Model):
    """A tick that was asked for and has not begun: while there is one, no other is queued."""

    queue = models.CharField(max_length=32, primary_key=True)
    asked_at = models.DateTimeField(default=now)

    def __str__(self) -> str:
        return self.queue


class QueueItem(TenantOwned):
    """The columns that the engine moves. A queue's own table adds what it needs.

    `state` is open while `queued` (free to claim when due), `claimed` (in a runner's hands, not sent)
    or `sending` (its request may be out); every other word is the queue's own.
    """

    lane = models.ForeignKey(Lane, null=True, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    state = models.CharField(max_length=16, default="queued")
    due_at = models.DateTimeField(default=now)
    attempts = models.PositiveSmallIntegerField(default=0)
    attempt = models.UUIDField(
        null=True, editable=False, help_text="Names the latest call made for this row."
    )
    run = models.BigIntegerField(null=True, editable=False)
    nudged = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Wanted at once, said while a runner had it in hand.",
    )
    in_doubt_at = models.DateTimeField(null=True, blank=True, editable=False)
    error_code = models.CharField(max_length=32, blank=True)
    error_detail = models.TextField(blank=True)

    class Meta:
        abstract = True
