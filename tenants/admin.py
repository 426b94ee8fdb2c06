"""Tenants, their people, keys and provider tokens in the admin."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.contrib.postgres.forms import SimpleArrayField
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.timezone import now
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordToggleWidget, UnfoldAdminTextInputWidget

from tenants import keys
from tenants.actions import create_api_key, revoke_api_key
from tenants.admin_actions import object_action
from tenants.admin_base import PLATFORM, TenantModelAdmin, TenantModelForm, TenantTabularInline, badge
from tenants.admin_roles import Role, sees_all_tenants
from tenants.errors import ActionRefused
from tenants.models import ApiKey, Membership, ProviderToken, Tenant, VendorAccount
from tenants.scope import ALL, current_scope
from tenants.secrets import SecretUnreadable
from tenants.token_settings import wrong_settings

User = get_user_model()


class MembershipInline(TenantTabularInline):
    """The people of a tenant, on its page. Only our own staff give an existing account a tenant."""

    model = Membership
    exclude: Any = ()
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)
    autocomplete_fields = ("user",)
    verbose_name_plural = "members"
    write_role = Role.PLATFORM


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    """Tenants: made and changed by our own staff; a member reads the page of the own one."""

    form: Any = forms.ModelForm
    list_display = ("name", badge(), badge("tier"), "timezone", "created_at")
    list_filter = (("state", ChoicesDropdownFilter), ("tier", ChoicesDropdownFilter))
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    fields = ("name", "slug", "state", "tier", "timezone")
    inlines = (MembershipInline,)
    write_role = Role.PLATFORM

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return list(self.list_display)

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return list(self.list_filter)

    def get_list_select_related(self, request: HttpRequest) -> Any:
        return False

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> Any:
        return None

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.prepopulated_fields if obj is None and self.has_add_permission(request) else {}

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows = super().get_queryset(request)
        scope = current_scope()
        return rows if scope == ALL else rows.filter(pk=scope)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a tenant is suspended; its history stays

    def changeform_view(self, request: HttpRequest, object_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self._refusable_view(request, object_id, *args, **kwargs)


class MembershipForm(TenantModelForm):
    """Add a person by making their account: a tenant's owner has no list of other people's accounts."""

    username = forms.CharField(max_length=150, widget=UnfoldAdminTextInputWidget())
    password = forms.CharField(
        widget=UnfoldAdminPasswordToggleWidget(),
        help_text="To sign in with the first time; ask them to change it.",
    )

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if User.objects.filter(username=username).exists():
            raise forms.ValidationError("There is an account of this name. Choose another one.")
        User._meta.get_field("username").run_validators(username)
        return username

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        validate_password(password)
        return password


@admin.register(Membership)
class MembershipAdmin(TenantModelAdmin):
    """The people of a tenant: its owners add them, change their roles and take them off."""

    list_display = ("user", badge("role"), "created_at")
    list_filter = (("role", ChoicesDropdownFilter),)
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    write_role = Role.OWNER

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = MembershipForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("user", "role", "created_at") if obj else ("username", "password", "role")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["user", "created_at"] if obj else []

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        if change:
            _keep_an_owner(obj)
        else:
            made = form.cleaned_data
            obj.user = User.objects.create_user(made["username"], password=made["password"], is_staff=True)
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        obj.role = ""
        _keep_an_owner(obj)
        super().delete_model(request, obj)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}  # one by one: a tenant keeps an owner

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        try:
            return super().delete_view(request, object_id, extra_context)
        except ActionRefused as refusal:
            messages.error(request, refusal.reason)
            return self.response_post_save_change(request, None)


def _keep_an_owner(leaving: Membership) -> None:
    """Refuse what would leave a tenant without an owner; locks them, so that two do not leave at once."""
    owners = Membership.objects.select_for_update().filter(
        tenant_id=leaving.tenant_id, role=Membership.Role.OWNER
    )
    left = [owner for owner in owners.order_by("pk") if owner.pk != leaving.pk]
    if leaving.role != Membership.Role.OWNER and not left and leaving.pk in {owner.pk for owner in owners}:
        raise ActionRefused(
            "A tenant keeps at least one owner: make somebody else an owner first.", field="role"
        )


class ProviderTokenForm(TenantModelForm):
    """The secret goes in and never comes out."""

    secret = forms.CharField(
        required=False,
        strip=True,
        widget=UnfoldAdminPasswordToggleWidget(attrs={"autocomplete": "new-password"}),
        help_text="Sealed when it is saved, and never shown again. Empty: keep the one there is.",
    )

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"]
        if not secret and not self.instance.sealed_secret:
            raise forms.ValidationError("A new token needs its secret.")
        return secret

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["config"] = self.instance.shown_config

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        provider = cleaned.get("provider") or self.instance.provider
        if provider and "config" in cleaned:
            cleaned["config"] = {} if cleaned["config"] in (None, "") else cleaned["config"]
            if wrong := wrong_settings(provider, cleaned["config"]):
                self.add_error("config", wrong)
        return cleaned

    def _post_clean(self) -> None:
        super()._post_clean()
        if "config" not in self.cleaned_data:
            return
        try:  # what the form wrote into the row is not sealed yet
            self.instance.set_config(self.cleaned_data["config"])
        except SecretUnreadable as error:
            self.add_error("config", f"{error}, or type the sealed settings anew.")


class ProviderTokenAdmin(TenantModelAdmin):
    """What vendors gave a tenant to act with. Nothing shows a secret again.

    Registered by `engine.admin`, which adds the button that asks the vendor.
    """

    form = ProviderTokenForm
    list_display = ("label", badge(), "provider", "hourly_allowance", "expires_at", "checked", "error_start")
    list_filter = (("state", ChoicesDropdownFilter), ("provider", ChoicesDropdownFilter))
    search_fields = ("label",)
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("provider", "label", "secret", "config", "hourly_allowance", "expires_at")}),
        ("What the vendor says", {"fields": ("state", "checked_at", "last_error", "accounts", "use")}),
    )
    readonly_fields = ("state", "checked_at", "last_error", "accounts", "use")
    write_role = Role.OWNER
    platform_owns = True
    autocomplete_fields = ("usable_by",)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A platform-owned token also says whom it serves; a tenant's own serves that tenant alone."""
        ours = obj.tenant_id is None if obj else bool(request.GET.get(PLATFORM))
        if not (ours and sees_all_tenants()):
            return self.fieldsets
        serves = ("The platform's own: whom it serves", {"fields": ("usable_by",)})
        return (self.fieldsets[0], serves, *self.fieldsets[1:])

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fixed = ["provider"] if obj else []
        return [*fixed, *super().get_readonly_fields(request, obj)]

    def save_model(self, request: HttpRequest, obj: ProviderToken, form: Any, change: bool) -> None:
        if secret := form.cleaned_data["secret"]:
            obj.secret = secret
            obj.last_error = ""
            form.changed_data += ["sealed_secret", "retired_at", "last_error"]
        if "config" in form.changed_data:
            form.changed_data.append("sealed_config")
        super().save_model(request, obj, form, change)
        if not change:
            messages.info(request, "Press “Check now” to ask the vendor whether it works.")

    @display(description="checked", ordering="checked_at")
    def checked(self, token: ProviderToken) -> str:
        return f"{timesince(token.checked_at, depth=1)} ago" if token.checked_at else "never"

    @display(description="last error")
    def error_start(self, token: ProviderToken) -> str:
        return token.last_error[:60]

    @display(description="allowance used now")
    def use(self, token: ProviderToken) -> str:
        return "no limit is set"  # `engine.admin` knows better

    @display(description="accounts proved to be the owner's")
    def accounts(self, token: ProviderToken) -> str:
        if not token.pk:
            return "none yet"
        proved = VendorAccount.objects.filter(tenant_id=token.tenant_id, provider=token.provider)
        told = [f"{account.account_id} ({account.proved_at:%d %b %Y})" for account in proved[:20]]
        return ", ".join(told) or "none yet"


class KeyStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        over = models.Q(expires_at__lte=now())
        match self.value():
            case "active":
                return queryset.filter(revoked_at=None).exclude(over)
            case "expired":
                return queryset.filter(over, revoked_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


class ApiKeyForm(TenantModelForm):
    scopes = SimpleArrayField(
        forms.CharField(max_length=40),
        initial=["*"],
        widget=UnfoldAdminTextInputWidget(),
        help_text="Separated by commas: * for everything, contacts:read, broadcasts:write, *:read …",
    )


@admin.register(ApiKey)
class ApiKeyAdmin(TenantModelAdmin):
    """Keys of tenants' own systems: shown once, when they are made; afterwards only revoked."""

    form = ApiKeyForm
    list_display = ("name", "state", "prefix", "scopes_text", "created_at", "last_used_at", "expires_at")
    list_filter = (KeyStateFilter,)
    search_fields = ("name",)
    ordering = ("-id",)
    fields = ("name", "scopes", "expires_at", "prefix", "created_at", "last_used_at", "revoked_at")
    readonly_fields = ("prefix", "created_at", "last_used_at", "revoked_at")
    write_role = Role.OWNER

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what a key may do is settled when it is made

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # revoked ones stay on record

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields if obj else self.fields[:3]

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        tenant = Tenant.objects.get(pk=obj.tenant_id)
        key = create_api_key(tenant=tenant, name=obj.name, scopes=obj.scopes, expires_at=obj.expires_at)
        obj.pk = ApiKey.objects.get(digest=keys.digest(key)).pk
        told = 'The key of “{}”, shown this once. Keep it safe:<br><code class="t-secret">{}</code>'
        messages.warning(request, format_html(told, obj.name, key))

    @display(description="state", label={"active": "success", "expired": "warning", "revoked": "danger"})
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= now() else "active"

    @display(description="scopes")
    def scopes_text(self, key: ApiKey) -> str:
        return ", ".join(key.scopes) or "none"

    @object_action("Revoke", icon="key_off", variant="danger", when=lambda key: key.revoked_at is None,
                   confirm="Whatever uses this key is refused from now on, for good. Revoke it?")  # fmt: skip
    def revoke(self, request: HttpRequest, key: ApiKey) -> str:
        revoke_api_key(key_id=key.pk)
        return f"“{key.name}” is revoked."
