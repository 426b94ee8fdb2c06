"""Campaigns, contacts, segments, cohorts and the spin ledger in the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from import_export.admin import ImportMixin
from import_export.results import Result, RowResult
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.contrib.import_export.forms import ImportForm
from unfold.decorators import display

from campaigns import actions, contact_rows, phones
from campaigns.models import Campaign, Cohort, Contact, Segment, SocialAccount, SpinEntry
from campaigns.resources import ContactFile, ContactResource
from campaigns.segments import RulesRefused, check_rules
from tenants.admin_actions import object_action
from tenants.admin_base import (
    COUNT_CAP,
    LedgerAdmin,
    TenantModelAdmin,
    TenantModelForm,
    TenantTabularInline,
    badge,
)
from tenants.admin_roles import sees_all_tenants
from tenants.errors import ActionRefused

State = Campaign.State


def _clean(form: forms.BaseForm, name: str, by: Callable[[str], Any]) -> Any:
    """Normalise a field as the API does, and tell a refusal as the field's."""
    value = form.cleaned_data.get(name)
    try:
        return by(value) if value else value
    except ValueError as error:
        raise forms.ValidationError(f"This {error}." if str(error)[:1].islower() else str(error)) from None


@admin.register(Campaign)
class CampaignAdmin(TenantModelAdmin):
    list_display = ("name", badge(), "starts_at", "ends_at", "budget", "currency", "created_at")
    list_filter = (("state", ChoicesDropdownFilter),)
    search_fields = ("name",)
    fields = ("name", "state", "starts_at", "ends_at", "budget", "currency", "created_at")
    readonly_fields = ("state", "created_at")

    @object_action(
        "Start", icon="play_arrow", variant="primary", when=lambda campaign: campaign.state == State.DRAFT
    )
    def start(self, request: HttpRequest, campaign: Campaign) -> str:
        actions.resume_campaign(campaign_id=campaign.pk)
        return "Started."

    @object_action("Pause", icon="pause", when=lambda campaign: campaign.state == State.ACTIVE)
    def pause(self, request: HttpRequest, campaign: Campaign) -> str:
        actions.pause_campaign(campaign_id=campaign.pk)
        return "Paused."

    @object_action(
        "Resume", icon="play_arrow", variant="primary", when=lambda campaign: campaign.state == State.PAUSED
    )
    def resume(self, request: HttpRequest, campaign: Campaign) -> str:
        actions.resume_campaign(campaign_id=campaign.pk)
        return "Resumed."

    @object_action(
        "Complete",
        icon="check",
        variant="danger",
        confirm="A completed campaign cannot be started again. Complete it?",
        when=lambda campaign: campaign.state in (State.ACTIVE, State.PAUSED),
    )
    def complete(self, request: HttpRequest, campaign: Campaign) -> str:
        actions.complete_campaign(campaign_id=campaign.pk)
        return "Completed."


class ContactForm(TenantModelForm):
    def clean_phone(self) -> Any:
        return _clean(self, "phone", phones.normalise)

    def clean_email(self) -> Any:
        return _clean(self, "email", contact_rows.normalise_email)

    def clean_timezone(self) -> Any:
        return _clean(self, "timezone", contact_rows.check_time_zone)

    def clean_attributes(self) -> Any:
        value = self.cleaned_data.get("attributes")
        value = {} if value is None else value
        try:
            return contact_rows.check_attributes(value)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class SocialAccountForm(forms.ModelForm):
    def clean_user_id(self) -> Any:
        return _clean(self, "user_id", contact_rows.clean_account_name)

    def clean_username(self) -> Any:
        return _clean(self, "username", lambda name: contact_rows.clean_account_name(name).lower())


class SocialAccountInline(TenantTabularInline):
    model = SocialAccount
    form = SocialAccountForm
    fields = ("platform", "username", "user_id")
    verbose_name_plural = "accounts"


@admin.register(Contact)
class ContactAdmin(ImportMixin, TenantModelAdmin):
    """Contacts. Searched by exact phone, e-mail or external id: other comparisons lose their index."""

    form = ContactForm
    list_display = ("external_id", "name", "phone", "email", "timezone", "updated_at")
    search_fields = ("external_id__exact", "phone__exact", "email__exact")
    search_help_text = "The whole external id, phone number (+49…) or e-mail address"
    fields = ("external_id", "name", "phone", "email", "timezone", "attributes", "created_at", "updated_at")
    readonly_fields = ("created_at", "updated_at")
    inlines = (SocialAccountInline,)
    import_form_class = ImportForm
    resource_classes = [ContactResource]
    import_formats = [ContactFile]
    skip_admin_log = True  # one entry a contact would take longer than the import

    def save_model(self, request: HttpRequest, obj: Contact, form: Any, change: bool) -> None:
        given = "timezone" in form.changed_data and bool(obj.timezone)
        actions.save_contact(contact=obj, timezone_given=given)

    # -- import

    def has_import_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request)

    def import_action(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if sees_all_tenants():
            messages.error(request, "Choose a tenant first: contacts are imported for one.")
            return HttpResponseRedirect(reverse(f"{self.admin_site.name}:campaigns_contact_changelist"))
        return super().import_action(request, **kwargs)

    def add_data_read_fail_error_to_form(self, form: Any, error: Exception) -> None:
        if not isinstance(error, ActionRefused):
            raise error
        form.add_error("import_file", error.reason[:1].upper() + error.reason[1:] + ".")

    def add_success_message(self, result: Result, request: HttpRequest) -> None:
        new, changed, rejected = (
            result.totals[kind]
            for kind in (RowResult.IMPORT_TYPE_NEW, RowResult.IMPORT_TYPE_UPDATE, RowResult.IMPORT_TYPE_SKIP)
        )
        messages.success(request, f"{new:,} contacts created, {changed:,} changed, {rejected:,} rejected.")


class SegmentForm(TenantModelForm):
    def clean_rules(self) -> Any:
        rules = self.cleaned_data.get("rules")
        rules = {} if rules is None else rules
        try:
            check_rules(rules)
        except RulesRefused as refused:
            raise forms.ValidationError(refused.reason) from None
        return rules


@admin.register(Segment)
class SegmentAdmin(TenantModelAdmin):
    form = SegmentForm
    list_display = ("name", "created_at")
    search_fields = ("name",)
    fields = ("name", "rules", "contacts_now", "created_at")
    readonly_fields = ("contacts_now", "created_at")

    @display(description="contacts now")
    def contacts_now(self, segment: Segment) -> str:
        if not segment.pk:
            return "counted once it is saved"
        count = Contact.objects.in_segment(segment)[: COUNT_CAP * 10 + 1].count()
        return f"{count:,}" if count <= COUNT_CAP * 10 else f"more than {COUNT_CAP * 10:,}"

    @object_action("Keep as cohort", icon="group_add", confirm="Keep the contacts of now as a cohort?")
    def keep(self, request: HttpRequest, segment: Segment) -> str:
        name = f"{segment.name}, {Cohort.objects.count() + 1}"
        _, count = actions.create_cohort(tenant_id=segment.tenant_id, name=name, segment=segment)
        return f"{count:,} contacts kept as {name}."


@admin.register(Cohort)
class CohortAdmin(TenantModelAdmin):
    """Cohorts: made of a segment, on its page; here they are named and looked at."""

    list_display = ("name", "created_at")
    search_fields = ("name",)
    fields = ("name", "size", "created_at")
    readonly_fields = ("size", "created_at")

    @display(description="contacts")
    def size(self, cohort: Cohort) -> str:
        count = Contact.objects.in_cohort(cohort)[: COUNT_CAP * 10 + 1].count()
        return f"{count:,}" if count <= COUNT_CAP * 10 else f"more than {COUNT_CAP * 10:,}"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(SpinEntry)
class SpinEntryAdmin(LedgerAdmin):
    list_display = ("contact", badge("reason"), "spins", "campaign", "source", "created_at")
    list_filter = (("reason", ChoicesDropdownFilter),)
    list_select_related: Any = ("contact", "campaign")
    search_fields = ("source__exact", "contact__external_id__exact")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).order_by("-id")
