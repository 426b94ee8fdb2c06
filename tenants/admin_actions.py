"""Buttons on a change page: each is a form that POSTs to its own address.

    @object_action("Pause", icon="pause", when=lambda broadcast: broadcast.state == "running")
    def pause(self, request, broadcast):
        pause_broadcast(broadcast_id=broadcast.pk)
        return "Paused."

The method returns what to tell the person, or a response. `ActionRefused` is shown as it stands.
Unfold's own detail actions run on a plain GET with a raw id, hence these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from tenants.errors import ActionRefused


@dataclass(frozen=True)
class ObjectAction:
    """How one button looks and when it is there."""

    name: str
    label: str
    icon: str
    variant: str  # primary, default or danger: Unfold's buttons
    confirm: str  # the question asked first; empty: none
    permission: str
    when: Callable[[Any], bool]


def object_action(
    label: str,
    *,
    icon: str = "",
    variant: str = "default",
    confirm: str = "",
    permission: str = "operate",
    when: Callable[[Any], bool] = lambda obj: True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a method of an `ObjectActions` admin a button; it is called with (request, obj)."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.object_action = ObjectAction(  # type: ignore[attr-defined]
            method.__name__, label, icon, variant, confirm, permission, when
        )
        return method

    return mark


class ObjectActions:
    """Give a ModelAdmin its `object_action` buttons: addresses, permission checks, messages, history."""

    change_form_outer_before_template = "admin/object_actions.html"

    def object_actions(self) -> dict[str, ObjectAction]:
        """In the order in which the class and its bases define them."""
        found: dict[str, ObjectAction] = {}
        for base in reversed(type(self).__mro__):
            for name, value in vars(base).items():
                if isinstance(action := getattr(value, "object_action", None), ObjectAction):
                    found[name] = action
        return found

    def get_urls(self) -> list[URLPattern]:
        opts = self.opts  # type: ignore[attr-defined]
        view = self.admin_site.admin_view(self.act_view)  # type: ignore[attr-defined]
        name = f"{opts.app_label}_{opts.model_name}_act"
        return [path("<path:object_id>/do/<slug:verb>/", view, name=name), *super().get_urls()]  # type: ignore[misc]

    def act_view(self, request: HttpRequest, object_id: str, verb: str) -> HttpResponse:
        """Do what the button says to an object that this person can see, on POST only."""
        action = self.object_actions().get(verb)
        obj = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if action is None or obj is None or not self.has_view_permission(request, obj):  # type: ignore[attr-defined]
            raise Http404
        if not self._may(action, request, obj):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            with transaction.atomic():
                told = getattr(self, verb)(request, obj)
                if not isinstance(told, HttpResponse):
                    self.log_change(request, obj, f"{action.label}: {told or 'done'}")  # type: ignore[attr-defined]
        except ActionRefused as refusal:
            messages.error(request, refusal.reason)
        else:
            if isinstance(told, HttpResponse):
                return told
            if told:
                messages.success(request, told)
        return HttpResponseRedirect(self._change_url(obj))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        obj = kwargs.get("obj")
        context["object_actions"] = self.offered_actions(request, obj) if obj else []
        return super().render_change_form(request, context, *args, **kwargs)  # type: ignore[misc]

    def offered_actions(self, request: HttpRequest, obj: Any) -> list[dict[str, Any]]:
        """List the buttons that this person may press on this object now, as the template needs them."""
        opts = self.opts  # type: ignore[attr-defined]
        address = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_act"  # type: ignore[attr-defined]
        return [
            {"action": action, "url": reverse(address, args=(quote(obj.pk), name))}
            for name, action in self.object_actions().items()
            if action.when(obj) and self._may(action, request, obj)
        ]

    def _may(self, action: ObjectAction, request: HttpRequest, obj: Any) -> bool:
        return bool(getattr(self, f"has_{action.permission}_permission")(request, obj))

    def _change_url(self, obj: Any) -> str:
        opts = self.opts  # type: ignore[attr-defined]
        name = f"{self.admin_site.name}:{opts.app_label}_{opts.model_name}_change"  # type: ignore[attr-defined]
        return reverse(name, args=(quote(obj.pk),))


def page(
    model_admin: Any, request: HttpRequest, template: str, title: str, **context: Any
) -> TemplateResponse:
    """Render a page of a ModelAdmin's own inside the site's frame."""
    return TemplateResponse(
        request,
        template,
        {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, "title": title, **context},
    )
