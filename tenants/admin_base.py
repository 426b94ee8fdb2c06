"""`TenantModelAdmin`: what every admin page of tenant-owned rows has in common.

Rows and choices are those of the request's scope (the manager sees to that), a new row gets its tenant
by itself, roles decide what may be done, and no page's cost grows with its table.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from unfold.admin import ModelAdmin, StackedInline, TabularInline
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminTextareaWidget

from tenants.admin_actions import ObjectActions, page
from tenants.admin_roles import Role, RolePermissions, sees_all_tenants
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import ALL, current_scope, tenant_scope

COUNT_CAP = 5_000
"""No list counts further than this: nobody turns a hundred pages, and counting a million rows takes long."""

PLATFORM = "platform"
"""The query parameter of an "add" page by which our own staff make a row of the platform's own."""

STATE_COLOURS = {
    "success": {"active", "done", "completed", "delivered", "read", "approved", "closed", "accepted", "sent"},
    "info": {"running", "scheduled", "sending", "claimed", "queued", "pending", "waiting"},
    "warning": {"paused", "throttled", "in_doubt", "warning", "suspended", "review", "suppressed"},
    "danger": {"failed", "failing", "expired", "revoked", "critical", "open", "rejected", "disabled", "lost"},
}
COLOUR_OF = {state: colour for colour, states in STATE_COLOURS.items() for state in states}
"""One colour per word, the same in every list. A word that is not here (draft, cancelled) stays grey."""


def badge(field: str = "state", description: str | None = None) -> Any:
    """Make a column that shows a choices field as a coloured badge: `list_display = ("name", badge())`."""

    @display(description=description or field, ordering=field, label=COLOUR_OF)
    def column(obj: models.Model) -> Any:
        value = getattr(obj, field)
        return value and (value, getattr(obj, f"get_{field}_display")())

    column.__name__ = f"{field}_badge"
    return column


class CappedPaginator(Paginator):
    """Count up to a cap and no further, so that a list costs the same at any size."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if not isinstance(rows, models.QuerySet):
            return len(rows)
        return rows.order_by()[:COUNT_CAP].count()


class TenantFilter(DropdownFilter):
    """Narrow a list to one tenant; offered to those who see several."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        platform = [("platform", "The platform's own")] if _may_be_platforms(model_admin.model) else []
        return [*platform, *Tenant.objects.values_list("pk", "name")[:500]]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        chosen = self.value()
        if chosen == "platform":
            return queryset.filter(tenant=None)
        return queryset.filter(tenant_id=chosen) if chosen and chosen.isdigit() else queryset


def _may_be_platforms(model: type[models.Model]) -> bool:
    return bool(getattr(model._meta.get_field("tenant"), "null", False))


class TenantModelForm(ModelForm):
    """A form whose row gets its tenant before it is validated, and points into no other tenant."""

    fixed_tenant: int | None = None  # set by the admin's get_form
    refusal: ActionRefused | None = None

    def _get_validation_exclusions(self) -> set[str]:
        # Uniqueness is per tenant, so the tenant takes part although it is not in the form.
        return super()._get_validation_exclusions() - {"tenant"}  # type: ignore[misc]

    def _post_clean(self) -> None:
        if self.fixed_tenant is not None and self.instance.tenant_id is None:
            self.instance.tenant_id = self.fixed_tenant
        super()._post_clean()  # type: ignore[misc]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        owner = self.instance.tenant_id or self.fixed_tenant
        for name, value in list(cleaned.items()):
            if owner and getattr(value, "tenant_id", owner) != owner:
                self.add_error(name, "This belongs to another tenant.")
        if self.refusal is not None:
            named = self.refusal.field in self.fields
            self.add_error(self.refusal.field if named else None, self.refusal.reason)
        return cleaned


class TenantInlineFormSet(PaginationInlineFormSet):
    """Rows under a row belong to its tenant."""

    def save_new(self, form: Any, commit: bool = True) -> Any:
        parent = self.instance
        form.instance.tenant_id = parent.pk if isinstance(parent, Tenant) else parent.tenant_id
        return super().save_new(form, commit)


class TenantTabularInline(RolePermissions, TabularInline):
    formset = TenantInlineFormSet
    exclude: Any = ("tenant",)
    extra = 0


class TenantStackedInline(RolePermissions, StackedInline):
    formset = TenantInlineFormSet
    exclude: Any = ("tenant",)
    extra = 0


class TenantModelAdmin(ObjectActions, RolePermissions, ModelAdmin):
    """The base of every admin over tenant-owned rows.

    A subclass names no tenant anywhere: column and filter come by themselves for those who see several,
    and a form's row belongs to the tenant in scope. A list shows at most 8 columns with the tenant's.
    """

    form: Any = TenantModelForm
    formfield_overrides = {models.JSONField: {"widget": UnfoldAdminTextareaWidget(attrs={"rows": 4})}}
    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 50
    list_filter_submit = True
    warn_unsaved_form = True
    save_on_top = False
    platform_owns = False
    """May our own staff add a row that belongs to the platform and to no tenant?"""

    # -- columns and filters

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns = list(super().get_list_display(request))
        return [*columns[:1], "tenant", *columns[1:]] if sees_all_tenants() else columns

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        filters = list(super().get_list_filter(request))
        return [*filters[:1], TenantFilter, *filters[1:]] if sees_all_tenants() else filters

    def get_list_select_related(self, request: HttpRequest) -> Any:
        related = list(super().get_list_select_related(request) or [])
        return ["tenant", *related] if sees_all_tenants() else related

    # -- the form

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*(super().get_exclude(request, obj) or []), "tenant"]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        scope = current_scope()
        form.fixed_tenant = None if scope == ALL else scope  # the factory made this class for this request
        form.refusal = request.__dict__.get("_refusal") if request.method == "POST" else None
        return form

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write what was changed and nothing else: the engine writes other columns meanwhile."""
        if not change:
            obj.save()
        elif changed := {field.name for field in obj._meta.concrete_fields} & set(form.changed_data):
            obj.save(update_fields=changed)

    def changeform_view(self, request: HttpRequest, object_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Work inside one tenant, and show a refusal of the use case behind "Save" as an error of the form.

        Those who see every tenant first say whose a new row is to be, and an old row's page offers only
        what belongs to its tenant.
        """
        if not sees_all_tenants():
            return self._refusable_view(request, object_id, *args, **kwargs)
        if object_id is None:
            if not self.has_add_permission(request):
                raise PermissionDenied
            if self.platform_owns and request.GET.get(PLATFORM):
                return self._refusable_view(request, object_id, *args, **kwargs)
            return page(
                self,
                request,
                "admin/choose_tenant.html",
                "For which tenant?",
                platform_owns=self.platform_owns,
            )
        obj = self.get_object(request, unquote(object_id))
        if obj is None or obj.tenant_id is None:
            return self._refusable_view(request, object_id, *args, **kwargs)
        with tenant_scope(obj.tenant_id):
            response = self._refusable_view(request, object_id, *args, **kwargs)
            return response.render() if isinstance(response, TemplateResponse) else response

    def _refusable_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ActionRefused as refusal:
            request.__dict__["_refusal"] = refusal  # the form's `clean` shows it, with what was typed
            return super().changeform_view(request, *args, **kwargs)


class LedgerAdmin(TenantModelAdmin):
    """Rows that machines write and people read."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class PlatformAdmin(RolePermissions, ModelAdmin):
    """Rows of the machinery, which belong to no tenant: our own staff only."""

    read_role = write_role = Role.PLATFORM
    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50
