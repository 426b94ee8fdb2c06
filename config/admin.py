"""django-q2's own tables in the same look, with what could run code left out.

A schedule that can be edited is code execution, so only those of our one table show a form, and in it only
when and how often they run; `sync_schedules` puts the interval back to the table's.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import models
from django.http import HttpRequest
from django.utils.timezone import now
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from engine.clock import schedules
from tenants.admin_actions import ObjectActions, object_action
from tenants.admin_base import CappedPaginator, PlatformAdmin
from tenants.admin_roles import Role, role_of

for model in (Schedule, Success, Failure, OrmQ, User, Group):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


class ReadOnly(PlatformAdmin):
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_add_permission


class ScheduleStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("ours", "In the table"), ("foreign", "Not in the table")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        ours = models.Q(name__in=known())
        return queryset.filter(ours if self.value() == "ours" else ~ours) if self.value() else queryset


def known() -> set[str]:
    """Name the schedules that our one table holds."""
    return {entry.name for entry in schedules.schedules()}


@admin.register(Schedule)
class ScheduleAdmin(ObjectActions, PlatformAdmin):
    list_display = ("name", "state", "func", "cluster", "every", "next_run")
    list_filter = (ScheduleStateFilter,)
    ordering = ("name",)
    fields = ("name", "func", "args", "cluster", "minutes", "next_run")
    readonly_fields = ("name", "func", "args", "cluster")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.name in known())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A schedule of somebody else's may be taken away; ours would come back by themselves."""
        return super().has_delete_permission(request, obj) and (obj is not None and obj.name not in known())

    @display(description="state", label={"in the table": "success", "not in the table": "danger"})
    def state(self, schedule: Schedule) -> str:
        return "in the table" if schedule.name in known() else "not in the table"

    @display(description="every")
    def every(self, schedule: Schedule) -> str:
        return f"{schedule.minutes} min" if schedule.minutes else schedule.get_schedule_type_display()

    @object_action("Run now", icon="play_arrow", variant="primary", permission="change")
    def run_now(self, request: HttpRequest, schedule: Schedule) -> str:
        Schedule.objects.filter(pk=schedule.pk).update(next_run=now())
        return f"“{schedule.name}” runs within half a minute, if its cluster is alive."


class TaskAdmin(ReadOnly):
    list_display = ("name", "func", "cluster", "started", "stopped", "took")
    list_filter: tuple[Any, ...] = ()
    search_fields = ("name",)
    ordering = ("-started",)
    fields = ("name", "func", "cluster", "started", "stopped", "attempt_count", "outcome")
    readonly_fields = fields

    @display(description="took")
    def took(self, task: Any) -> str:
        return f"{(task.stopped - task.started).total_seconds():.1f} s"

    @display(description="result")
    def outcome(self, task: Any) -> str:
        return str(task.result)[:4000]


@admin.register(Success)
class SuccessAdmin(TaskAdmin):
    pass


@admin.register(Failure)
class FailureAdmin(TaskAdmin):
    list_display = ("name", "func", "cluster", "started", "stopped", "error")

    @display(description="error")
    def error(self, task: Any) -> str:
        return str(task.result).strip().rpartition("\n")[2][:120]


@admin.register(OrmQ)
class OrmQAdmin(ReadOnly):
    """Ticks that wait. One may be taken away: the next minute asks again."""

    list_display = ("id", "key", "task_name", "function", "lock")
    fields = ("key", "lock", "task_name", "function")
    readonly_fields = fields
    ordering = ("id",)

    @display(description="name")
    def task_name(self, row: OrmQ) -> str:
        return str(row.name())

    @display(description="function")
    def function(self, row: OrmQ) -> str:
        return str(row.func())


class SuperuserOnly:
    """Accounts open every tenant's door, so only superusers see them."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)

    has_add_permission = has_change_permission = has_delete_permission = has_view_permission


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_superuser) and role_of(request) == Role.PLATFORM


@admin.register(User)
class UserAdmin(SuperuserOnly, DjangoUserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    paginator = CappedPaginator
    show_full_result_count = False
    list_display = ("username", "email", "first_name", "last_name", "is_active", "is_superuser", "last_login")
    list_filter = ("is_active", "is_superuser")


@admin.register(Group)
class GroupAdmin(SuperuserOnly, DjangoGroupAdmin, ModelAdmin):
    paginator = CappedPaginator
    show_full_result_count = False
