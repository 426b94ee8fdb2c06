"""Provider tokens, with the button that asks the vendor, and what the vendor lets each of them spend."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from unfold.decorators import display

from engine.actions.tokens import check_token, retire_token
from engine.models import Allowance
from engine.store.spent import spent
from tenants.admin import ProviderTokenAdmin
from tenants.admin_actions import object_action
from tenants.admin_base import TenantModelAdmin, TenantModelForm
from tenants.admin_roles import Role
from tenants.models import ProviderToken


@admin.register(ProviderToken)
class CheckableTokenAdmin(ProviderTokenAdmin):
    """Tokens, with the button that asks the vendor. Here, since `tenants` calls nobody."""

    @object_action(
        "Check now",
        icon="wifi_tethering",
        variant="primary",
        network=True,
        when=lambda token: token.retired_at is None,
    )
    def check_now(self, request: HttpRequest, token: ProviderToken) -> str:
        standing, detail = check_token(token_id=token.pk)
        return f"{token}: {standing.value}. {detail}"

    @object_action(
        "Retire",
        icon="block",
        variant="danger",
        when=lambda token: token.retired_at is None,
        confirm="Nothing leaves by its lanes any more, until it has a new secret. Retire it?",
    )
    def retire(self, request: HttpRequest, token: ProviderToken) -> str:
        stopped = retire_token(token_id=token.pk)
        return f"{token} is retired. Lanes stopped by it: {stopped}."

    @display(description="allowances used now")
    def use(self, token: ProviderToken) -> str:
        allowances = list(token.allowances.all()) if token.pk else []
        used = spent({allowance.pk for allowance in allowances})
        told = [f"{used[allowance.pk].used:,} of {allowance}" for allowance in allowances]
        return "; ".join(told) or "no limit is set"


class AllowanceForm(TenantModelForm):
    def clean_timezone(self) -> str:
        timezone: str = self.cleaned_data["timezone"]
        if timezone not in available_timezones():
            raise forms.ValidationError("There is no such time zone; one is written like Europe/Vienna.")
        return timezone


@admin.register(Allowance)
class AllowanceAdmin(TenantModelAdmin):
    """What vendors let tokens spend. Calls an hour are edited on the token, the other budgets here."""

    form = AllowanceForm
    list_display = ("allowance", "token", "used", "resets", "blocked_until")
    list_select_related = ("token",)
    search_fields = ("token__label",)
    ordering = ("-id",)
    fields = ("token", "unit", "window", "limit", "timezone", "used", "resets", "blocked_until")
    write_role = Role.OWNER

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the engine makes one where a vendor has such a limit

    has_delete_permission = has_add_permission

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = ["token", "unit", "window", "used", "resets", "blocked_until"]
        hourly = obj and (obj.unit, obj.window) == ("calls", Allowance.Window.HOUR)
        return [*fixed, "limit", "timezone"] if hourly else fixed

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        shown = list(changelist.result_list)
        used = spent({allowance.pk for allowance in shown})
        for allowance in shown:
            allowance.spent = used[allowance.pk]
        changelist.result_list = shown
        return changelist

    @display(description="allowance", ordering="limit")
    def allowance(self, allowance: Allowance) -> str:
        return str(allowance)

    @display(description="used now")
    def used(self, allowance: Allowance) -> str:
        return f"{_spent(allowance).used:,}"

    @display(description="comes back")
    def resets(self, allowance: Allowance) -> Any:
        return _spent(allowance).renews


def _spent(allowance: Allowance) -> Any:
    """Take what the list has read for all its rows at once, or read it for this one."""
    return getattr(allowance, "spent", None) or spent({allowance.pk})[allowance.pk]
