"""Senders with their lanes, and suppressions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin
from django.db import models
from django.db.models import Sum
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from campaigns.phones import NotAPhoneNumber, normalise
from engine.admin import DEPTHS
from messaging.actions import create_sender, suppress, update_sender
from messaging.models import Broadcast, Message, MessageTally, Sender, Suppression
from tenants.admin_base import TenantModelAdmin, TenantModelForm


def lane_depths(lanes: Iterable[int]) -> dict[int, int]:
    """Count what waits on each lane, from the tallies of the broadcasts under way."""
    states = [Broadcast.State.RUNNING, Broadcast.State.PAUSED]
    under_way = Broadcast.objects.filter(sender__lane__in=list(lanes), state__in=states)
    lane_of = dict(under_way.order_by().values_list("pk", "sender__lane")[:1000])
    counted: dict[int, int] = defaultdict(int)
    waiting = MessageTally.objects.filter(broadcast__in=list(lane_of), state__in=Message.OPEN)
    for broadcast, n in waiting.order_by().values_list("broadcast").annotate(Sum("n")):
        counted[lane_of[broadcast]] += n
    return counted


DEPTHS["messaging"] = lane_depths


@admin.register(Sender)
class SenderAdmin(TenantModelAdmin):
    """Addresses that messages leave from. Making one makes its lane."""

    list_display = ("sender", "lane_state", "kind", "provider_token", "rate", "quality")
    list_filter = (("kind", ChoicesDropdownFilter),)
    list_select_related = ("provider_token", "lane")
    search_fields = ("label", "address")
    autocomplete_fields = ("provider_token",)
    ordering = ("-id",)
    fields = (
        *("kind", "provider_token", "address", "label", "display_number"),
        *("rate_per_second", "in_doubt_minutes"),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return ["kind", "provider_token", "address", "quality"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.fields, "quality") if obj else self.fields

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # webhooks still come for it; its lane can be paused

    def save_model(self, request: HttpRequest, obj: Sender, form: Any, change: bool) -> None:
        names = ("label", "display_number", "rate_per_second", "in_doubt_minutes")
        given = {name: form.cleaned_data[name] for name in names}
        if change:
            update_sender(sender_id=obj.pk, **given)
            return
        given |= {"provider_token_id": obj.provider_token_id, "kind": obj.kind, "address": obj.address}
        obj.pk = create_sender(tenant_id=obj.tenant_id, **given).pk

    @display(description="sender", ordering="label", header=True)
    def sender(self, sender: Sender) -> tuple[str, str]:
        return str(sender), sender.display_number or sender.address

    @display(description="rate", ordering="rate_per_second")
    def rate(self, sender: Sender) -> str:
        return f"{sender.rate_per_second:g}/s"

    @display(description="lane", label={"free": "success", "paused": "warning", "vendor refuses": "danger"})
    def lane_state(self, sender: Sender) -> str:
        if sender.lane.paused_at:
            return "paused"
        return "vendor refuses" if sender.lane.breaker == "open" else "free"


class SuppressionForm(TenantModelForm):
    phone = forms.CharField(widget=UnfoldAdminTextInputWidget(), help_text="With its country code: +49…")

    def clean_phone(self) -> str:
        try:
            return normalise(self.cleaned_data["phone"])
        except NotAPhoneNumber as error:
            raise forms.ValidationError(f"This {error}.") from error


@admin.register(Suppression)
class SuppressionAdmin(TenantModelAdmin):
    """People who must not be written to; checked at launch and again as each message leaves."""

    form = SuppressionForm
    list_display = ("phone", "channel", "reason", "created_at")
    list_filter = (("channel", ChoicesDropdownFilter),)
    search_fields = ("phone",)
    search_help_text = "A whole phone number (+…)."
    ordering = ("-id",)
    fields = ("phone", "channel", "reason")

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        digits = re.sub(r"\D", "", search_term)
        return (queryset.filter(phone=f"+{digits}") if digits else queryset), False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # it is there or it is not

    def save_model(self, request: HttpRequest, obj: Suppression, form: Any, change: bool) -> None:
        suppress(tenant_id=obj.tenant_id, phones=[obj.phone], channel=obj.channel, reason=obj.reason)
        made = Suppression.objects.get(tenant=obj.tenant_id, phone=obj.phone, channel=obj.channel)
        obj.pk = made.pk
