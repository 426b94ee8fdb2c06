"""Messages: one template to one contact, and what the vendor said of it. Read only, but for doubt."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import models
from django.db.models import Sum
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import display

from campaigns.models import Contact
from messaging.actions import resolve_in_doubt
from messaging.admin.templates import filled
from messaging.models import Message, MessageTally
from tenants.admin_actions import object_action
from tenants.admin_base import LedgerAdmin, badge

MOST_CONTACTS = 200
RARE = 1_000
INDEXED = (*Message.OPEN, Message.State.IN_DOUBT)  # by partial indexes
TIMES = ("accepted_at", "sent_at", "delivered_at", "read_at", "failed_at")


class StateFilter(ChoicesDropdownFilter):
    """Messages in one state. The tallies know whether there are any, and of which broadcasts.

    No index has every state, so a search for a rare one would read the whole table to fill a page.
    """

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        state = self.value()
        if not state or state in INDEXED:
            return super().queryset(request, queryset)
        tallies = MessageTally.objects.filter(state=state).order_by().values_list("broadcast")
        counted = dict(tallies.annotate(count=Sum("n")).filter(count__gt=0))
        if not counted:
            return queryset.none()
        if sum(counted.values()) <= RARE:
            queryset = queryset.filter(broadcast__in=list(counted))
        return super().queryset(request, queryset)


def is_in_doubt(message: Message) -> bool:
    return message.state == Message.State.IN_DOUBT


@admin.register(Message)
class MessageAdmin(LedgerAdmin):
    list_display = ("phone", badge(), "broadcast", "template", "attempts", "error_code", "latest")
    list_filter = (("state", StateFilter), ("broadcast", AutocompleteSelectFilter))
    list_select_related = ("broadcast", "step__template")
    search_fields = ("wamid",)  # looked up by `get_search_results`
    search_help_text = "A whole phone number (+…) or a whole wamid."
    ordering = ("-id",)
    actions = ("mark_sent", "mark_failed")
    fieldsets = (
        (None, {"fields": ("phone", "contact", "state", "broadcast", "template", "text")}),
        (
            "What the vendor said",
            {"fields": ("vendor_status", "wamid", *TIMES, "in_doubt_at", "error_code", "error_detail")},
        ),
        ("How it was sent", {"fields": ("attempts", "attempt", "lane", "run", "due_at", "created_at")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [name for _, options in self.fieldsets for name in options["fields"]]

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        """Look up exactly, each by its index: `ILIKE` would read the whole table."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.removeprefix("+").isdigit():
            phone = f"+{term.removeprefix('+')}"
            people = Contact.objects.filter(phone=phone).values_list("pk", flat=True)[:MOST_CONTACTS]
            return queryset.filter(contact_id__in=list(people)), False
        return queryset.filter(wamid=term), False

    @display(description="template")
    def template(self, message: Message) -> str:
        return message.step.template.name

    @display(description="latest news")
    def latest(self, message: Message) -> Any:
        times = [at for at in (getattr(message, name) for name in TIMES) if at]
        return max(times) if times else None

    @display(description="text")
    def text(self, message: Message) -> str:
        return filled(message.step.template.body, message.parameters)

    @object_action(
        "Mark as sent",
        icon="done_all",
        when=is_in_doubt,
        confirm="Do you know that it reached the vendor? It then counts as accepted.",
    )
    def settle_sent(self, request: HttpRequest, message: Message) -> str:
        resolve_in_doubt(message_ids=[message.pk], outcome="sent")
        return "Marked as sent."

    @object_action(
        "Mark as failed",
        icon="close",
        when=is_in_doubt,
        confirm="Do you know that it did not reach the vendor? Retry failed may then send it again.",
    )
    def settle_failed(self, request: HttpRequest, message: Message) -> str:
        resolve_in_doubt(message_ids=[message.pk], outcome="failed")
        return "Marked as failed."

    @admin.action(description="In doubt: mark as sent", permissions=["operate"])
    def mark_sent(self, request: HttpRequest, chosen: models.QuerySet[Message]) -> None:
        settled = resolve_in_doubt(message_ids=list(chosen.values_list("pk", flat=True)), outcome="sent")
        self._tell_settled(request, settled, "sent")

    @admin.action(description="In doubt: mark as failed", permissions=["operate"])
    def mark_failed(self, request: HttpRequest, chosen: models.QuerySet[Message]) -> None:
        settled = resolve_in_doubt(message_ids=list(chosen.values_list("pk", flat=True)), outcome="failed")
        self._tell_settled(request, settled, "failed")

    def _tell_settled(self, request: HttpRequest, settled: int, word: str) -> None:
        told = f"{settled} in doubt marked as {word}." if settled else "None of these is in doubt."
        self.message_user(request, told, messages.SUCCESS if settled else messages.WARNING)
