"""Buttons on a change page: each is a form that POSTs to its own address.

    @object_action("Pause", icon="pause", when=lambda broadcast: broadcast.state == "running")
    def pause(self, request, broadcast):
        pause_broadcast(broadcast_id=broadcast.pk)
        return "Paused."

The method returns what to tell the person, or a response. `ActionRefused` is shown as it stands. One
that calls a vendor says `network=True`: it runs outside any transaction, and opens its own.
Unfold's own detail actions run on a plain GET with a raw id, hence these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tenants.middleware import no_transaction
from tenants.scope import all_tenants, tenant_scope


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
    network: bool


def object_action(
    label: str,
    *,
    icon: str = "",
    variant: str = "default",
    confirm: str = "",
    permission: str = "operate",
    when: Callable[[Any], bool] = lambda obj: True,
    network: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a method of an `ObjectActions` admin a button; it is called with (request, obj)."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.object_action = ObjectAction(  # type: ignore[attr-defined]
            method.__name__, label, icon, variant, confirm, permission, when, network
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
        wrap = self.admin_site.admin_view  # type: ignore[attr-defined]
        name = f"{opts.app_label}_{opts.model_name}_act"
        network = [
            path(f"<path:object_id>/do/{verb}/", wrap(self._network_view(verb)))
            for verb, action in self.object_actions().items()
            if action.network
        ]
        act = path("<path:object_id>/do/<slug:verb>/", wrap(self.act_view), name=name)
        return [*network, act, *super().get_urls()]  # type: ignore[misc]

    def act_view(self, request: HttpRequest, object_id: str, verb: str) -> HttpResponse:
        """Do what the button says to an object that this person can see, on POST only."""
        action, obj = self._wanted(request, object_id, verb)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            with transaction.atomic():
                told = getattr(self, verb)(request, obj)
        except ActionRefused as refusal:
            return self._tell_refusal(request, obj, refusal)
        return self._tell(request, action, obj, told)

    def _network_view(self, verb: str) -> Callable[..., HttpResponse]:
        """Do the same for a verb that calls a vendor: look, call outside any transaction, note what came."""

        @no_transaction
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            with _scope_of(request):
                action, obj = self._wanted(request, object_id, verb)
            if request.method != "POST":
                return HttpResponseNotAllowed(["POST"])
            try:
                told = getattr(self, verb)(request, obj)
            except ActionRefused as refusal:
                return self._tell_refusal(request, obj, refusal)
            with _scope_of(request):
                return self._tell(request, action, obj, told)

        return view

    def _wanted(self, request: HttpRequest, object_id: str, verb: str) -> tuple[ObjectAction, Any]:
        action = self.object_actions().get(verb)
        obj = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if action is None or obj is None or not self.has_view_permission(request, obj):  # type: ignore[attr-defined]
            raise Http404
        if not self._may(action, request, obj):
            raise PermissionDenied
        return action, obj

    def _tell(self, request: HttpRequest, action: ObjectAction, obj: Any, told: Any) -> HttpResponse:
        if isinstance(told, HttpResponse):
            return told
        self.log_change(request, obj, f"{action.label}: {told or 'done'}")  # type: ignore[attr-defined]
        if told:
            messages.success(request, told)
        return HttpResponseRedirect(self._change_url(obj))

    def _tell_refusal(self, request: HttpRequest, obj: Any, refusal: ActionRefused) -> HttpResponse:
        messages.error(request, refusal.reason)
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


def act_on_each(
    model_admin: Any, request: HttpRequest, rows: list[Any], act: Callable[[Any], Any], done: str
) -> None:
    """Do one verb to each of some rows; tell how many it was done to, and why not to the others."""
    count = 0
    for row in rows:
        try:
            act(row)
        except ActionRefused as refusal:
            model_admin.message_user(request, f"{row}: {refusal.reason}", messages.ERROR)
        else:
            count += 1
    model_admin.message_user(request, f"{count} {done}.", messages.SUCCESS if count else messages.WARNING)


def page(
    model_admin: Any, request: HttpRequest, template: str, title: str, **context: Any
) -> TemplateResponse:
    """Render a page of a ModelAdmin's own inside the site's frame."""
    return TemplateResponse(
        request,
        template,
        {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, "title": title, **context},
    )


@contextmanager
def _scope_of(request: HttpRequest) -> Iterator[None]:
    """Open the request's scope in a view for which the middleware opened none."""
    tenant = getattr(request, "tenant", None)
    with transaction.atomic(), tenant_scope(tenant.pk) if tenant else all_tenants():
        yield
