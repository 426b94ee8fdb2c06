"""Broadcasts: write one, check it, launch it, watch it, stop it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from campaigns.models import Segment
from messaging import actions
from messaging.admin.forms import BroadcastForm
from messaging.admin.words import PAUSED_BECAUSE, audience_in_words, excluded_in_words, pause_note
from messaging.models import Broadcast, BroadcastStep
from messaging.progress import progress_of, progress_of_many
from tenants.admin_actions import object_action, page
from tenants.admin_base import TenantModelAdmin, TenantTabularInline, badge

State = Broadcast.State
BAR = (
    *("read", "delivered", "sent", "accepted", "sending"),
    *("in_doubt", "failed", "suppressed", "cancelled", "queued"),
)
"""The states of a bar from left to right, as static/turnout/live.js draws it."""


DOUBT_CHOICES = ((10, "10 minutes"), (60, "an hour"), (360, "6 hours"), (1440, "a day"))
"""For how long a message must have been in doubt to be offered for sending again, in minutes."""


def is_in(*states: str) -> Any:
    return lambda broadcast: broadcast.state in states


class StepInline(TenantTabularInline):
    """The steps in the order in which they go out; shares are percents of the audience."""

    model = BroadcastStep
    fields = ("template", "share")
    autocomplete_fields = ("template",)
    hide_title = True
    verbose_name_plural = "steps: one template after the other, shares add up to 100"

    def get_extra(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> int:
        return 0 if obj else 1

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.state == State.DRAFT)

    has_add_permission = has_delete_permission = has_change_permission


@admin.register(Broadcast)
class BroadcastAdmin(TenantModelAdmin):
    form = BroadcastForm
    list_display = ("broadcast", badge(), "progress", "sender", "total_text", "launched_at", "why")
    list_filter = (("state", ChoicesDropdownFilter),)
    list_select_related = ("campaign", "sender")
    search_fields = ("name",)
    ordering = ("-id",)
    inlines = (StepInline,)
    conditional_fields = {"segment": "reach == 'segment'", "listed": "reach == 'contacts'"}
    change_form_outer_before_template = "admin/messaging/broadcast/panel.html"
    readonly_fields = ("audience_text", "launched_at", "ended_at", "left_out")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            what = ("name", "campaign", "sender", "scheduled_at")
            return [(None, {"fields": what}), ("Audience", {"fields": ("reach", "segment", "listed")})]
        seen = ("name", "campaign", "sender", "audience_text", "scheduled_at", "launched_at", "ended_at")
        return [(None, {"fields": (*seen, "left_out")})]

    # -- who may do what

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.state == State.DRAFT)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.state == State.DRAFT)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}  # one by one: each is looked at

    # -- columns

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        rows = list(changelist.result_list)
        documents = progress_of_many(rows)
        for row in rows:
            row.document = documents[row.pk]
        changelist.result_list = rows
        return changelist

    @display(description="broadcast", ordering="name", header=True)
    def broadcast(self, broadcast: Broadcast) -> tuple[str, str]:
        return broadcast.name, broadcast.campaign.name

    @display(description="progress")
    def progress(self, broadcast: Broadcast) -> str:
        document: dict[str, Any] = broadcast.document  # type: ignore[attr-defined]
        total = document["total"]
        if not total:
            return ""
        parts, x = [], 0.0
        for state in (state for state in BAR if document[state]):
            width = 100 * document[state] / total
            parts.append(
                (round(x, 2), round(width, 2), state, state.replace("_", " "), f"{document[state]:,}")
            )
            x += width
        rects = format_html_join(
            "", '<rect x="{}" width="{}" height="1" class="t-fill-{}"><title>{}: {}</title></rect>', parts
        )
        return format_html(
            '<div class="t-use"><span class="t-num">{} %</span><svg class="t-bar" viewBox="0 0 100 1" '
            'preserveAspectRatio="none">{}</svg></div>',
            100 * (total - document["queued"] - document["sending"]) // total,
            rects,
        )

    @display(description="messages", ordering="total")
    def total_text(self, broadcast: Broadcast) -> str:
        return f"{broadcast.total:,}" if broadcast.launched_at else ""

    @display(description="why it waits")
    def why(self, broadcast: Broadcast) -> str:
        if broadcast.pause_reason:
            return PAUSED_BECAUSE[broadcast.pause_reason][0]
        document: dict[str, Any] = broadcast.document  # type: ignore[attr-defined]
        return str(document["held_by"]).capitalize()

    @display(description="audience")
    def audience_text(self, broadcast: Broadcast) -> str:
        chosen = broadcast.audience.get("segment")
        name = Segment.objects.filter(pk=chosen).values_list("name", flat=True).first() if chosen else ""
        return audience_in_words(broadcast.audience, name or "")

    @display(description="left out at launch")
    def left_out(self, broadcast: Broadcast) -> str:
        reasons = excluded_in_words(broadcast.excluded)
        return "; ".join(f"{n:,} {reason}" for reason, n in reasons) or "nobody"

    # -- writing it down, by the same actions as the API

    def save_model(self, request: HttpRequest, obj: Broadcast, form: Any, change: bool) -> None:
        """Leave it to `save_related`, which knows the steps as well."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        given = form.cleaned_data
        fields = {
            "name": given["name"],
            "campaign_id": given["campaign"].pk,
            "sender_id": given["sender"].pk,
            "audience": form.audience(),
            "scheduled_at": given["scheduled_at"],
        }
        steps = [
            {"template": row["template"].pk, "share": row["share"]}
            for row in (step.cleaned_data for formset in formsets for step in formset.forms)
            if row.get("template") and not row.get("DELETE")
        ]
        if change:
            actions.update_broadcast(broadcast_id=form.instance.pk, steps=steps, **fields)
        else:
            made = actions.create_broadcast(tenant_id=form.instance.tenant_id, steps=steps, **fields)
            form.instance.pk = made.pk

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        return super().construct_change_message(request, form, [], add)  # the actions wrote the steps

    def delete_model(self, request: HttpRequest, obj: Broadcast) -> None:
        actions.delete_broadcast(broadcast_id=obj.pk)

    def response_add(
        self, request: HttpRequest, obj: Broadcast, post_url_continue: Any = None
    ) -> HttpResponse:
        """Go to its page, where Preflight and Launch are."""
        if "_addanother" in request.POST or "_popup" in request.POST:
            return super().response_add(request, obj, post_url_continue)
        told = f"“{obj.name}” is written down. Preflight tells who will get it, Launch sends it."
        messages.success(request, told)
        return redirect("admin:messaging_broadcast_change", obj.pk)

    # -- buttons

    @object_action("Preflight", icon="fact_check", when=is_in(State.DRAFT))
    def preflight(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse:
        found = actions.preflight_broadcast(broadcast_id=broadcast.pk)
        return page(
            self,
            request,
            "admin/messaging/broadcast/preflight.html",
            f"Preflight of “{broadcast.name}”",
            original=broadcast,
            preflight=found,
            excluded=excluded_in_words(found.excluded),
            launch_url=reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "launch")),
        )

    @object_action(
        "Launch",
        icon="rocket_launch",
        variant="primary",
        when=is_in(State.DRAFT),
        confirm="Its audience is frozen and sending begins, at once or at its scheduled time. Launch it?",
    )
    def launch(self, request: HttpRequest, broadcast: Broadcast) -> str:
        launched = actions.launch_broadcast(broadcast_id=broadcast.pk)
        if launched.state == State.SCHEDULED:
            return f"“{broadcast.name}” is scheduled and launches by itself."
        left_out = sum(launched.excluded.values())
        return f"“{broadcast.name}” is running: {launched.total:,} messages, {left_out:,} contacts left out."

    @object_action("Pause", icon="pause", when=is_in(State.RUNNING))
    def pause(self, request: HttpRequest, broadcast: Broadcast) -> str:
        actions.pause_broadcast(broadcast_id=broadcast.pk)
        return f"“{broadcast.name}” is paused. Messages already on their way finish."

    @object_action("Resume", icon="play_arrow", variant="primary", when=is_in(State.PAUSED))
    def resume(self, request: HttpRequest, broadcast: Broadcast) -> str:
        actions.resume_broadcast(broadcast_id=broadcast.pk)
        return f"“{broadcast.name}” goes on."

    @object_action(
        "Retry failed",
        icon="replay",
        when=is_in(State.RUNNING, State.PAUSED, State.COMPLETED),
        confirm="Messages that failed for a reason that may have passed are sent again. Go on?",
    )
    def retry_failed(self, request: HttpRequest, broadcast: Broadcast) -> str:
        retried = actions.retry_failed(broadcast_id=broadcast.pk)
        return (
            f"{retried:,} messages are tried again." if retried else "No failed message can be tried again."
        )

    @object_action(
        "Resend in doubt",
        icon="forward_to_inbox",
        when=is_in(State.RUNNING, State.PAUSED, State.COMPLETED),
    )
    def resend_in_doubt(self, request: HttpRequest, broadcast: Broadcast) -> HttpResponse | str:
        """Show how many there are and what it risks; send them again once one of the choices is pressed."""
        chosen = request.POST.get("older_than_minutes", "")
        if chosen:
            minutes = int(chosen) if chosen.isdecimal() and len(chosen) < 9 else 0
            resent = actions.resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=minutes)
            return f"{resent:,} messages in doubt are sent again." if resent else "None is in doubt so long."
        counted = [
            {"minutes": minutes, "words": words, "count": actions.doubtful_of(broadcast.pk, minutes).count()}
            for minutes, words in DOUBT_CHOICES
        ]
        return page(
            self,
            request,
            "admin/messaging/broadcast/resend.html",
            f"In doubt of “{broadcast.name}”",
            original=broadcast,
            choices=[choice for choice in counted if choice["count"]],
            resend_url=reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "resend_in_doubt")),
        )

    @object_action(
        "Cancel",
        icon="cancel",
        variant="danger",
        when=is_in(State.DRAFT, State.SCHEDULED, State.RUNNING, State.PAUSED),
        confirm="What has not left will never leave. This cannot be undone. Cancel the broadcast?",
    )
    def cancel(self, request: HttpRequest, broadcast: Broadcast) -> str:
        cancelled = actions.cancel_broadcast(broadcast_id=broadcast.pk)
        return f"“{broadcast.name}” is cancelled; {cancelled:,} messages will not be sent."

    # -- live progress

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.progress_view)
        name = "messaging_broadcast_progress"
        return [path("<path:object_id>/progress/", view, name=name), *super().get_urls()]

    def progress_view(self, request: HttpRequest, object_id: str) -> JsonResponse:
        broadcast = self.get_object(request, object_id)
        if broadcast is None or not self.has_view_permission(request, broadcast):
            raise Http404
        answer = JsonResponse(progress_of(broadcast))
        answer["Cache-Control"] = "no-store"
        return answer

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        broadcast = kwargs.get("obj")
        if broadcast is not None:
            url = reverse("admin:messaging_message_changelist")
            context |= {
                "progress": progress_of(broadcast) if broadcast.launched_at else None,
                "progress_url": reverse("admin:messaging_broadcast_progress", args=(broadcast.pk,)),
                "messages_url": f"{url}?broadcast__id__exact={broadcast.pk}",
                "pause_note": pause_note(broadcast),
            }
        return super().render_change_form(request, context, *args, **kwargs)
