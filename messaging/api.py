"""Senders, templates, broadcasts, messages and suppressions over HTTP: thin faces of the actions."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import Model
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from messaging import actions
from messaging.export import CsvExport, CsvRenderer
from messaging.models import Broadcast, Message, MessageTemplate, Sender, Suppression
from messaging.progress import progress_of
from messaging.serializers import (
    BroadcastSerializer,
    CancelledSerializer,
    LaunchedSerializer,
    MessageSerializer,
    PreflightSerializer,
    ProgressSerializer,
    ResendSerializer,
    ResentSerializer,
    RetriedSerializer,
    SenderSerializer,
    SuppressionSerializer,
    TemplateSerializer,
)
from tenants.api.viewsets import TenantModelViewSet, TenantViewSet
from tenants.scope import current_scope


class SenderViewSet(TenantModelViewSet):
    """Addresses that messages leave from. One address belongs to one tenant."""

    model = Sender
    serializer_class = SenderSerializer
    filters: ClassVar[dict[str, str]] = {
        "kind": "kind",
        "address": "address",
        "provider_token": "provider_token_id",
    }

    def perform_destroy(self, instance: Model) -> None:
        actions.delete_sender(sender_id=instance.pk)


class TemplateViewSet(TenantModelViewSet):
    """Texts that the vendor has approved; `variables` say where {{1}}, {{2}} … come from."""

    model = MessageTemplate
    serializer_class = TemplateSerializer
    filters: ClassVar[dict[str, str]] = {
        "name": "name",
        "language": "language",
        "category": "category",
        "state": "state",
    }


class BroadcastViewSet(TenantModelViewSet):
    """Templates sent to an audience, step by step. Only drafts can be changed or deleted."""

    model = Broadcast
    serializer_class = BroadcastSerializer
    prefetch = ("steps",)
    filters: ClassVar[dict[str, str]] = {
        "state": "state",
        "campaign": "campaign_id",
        "sender": "sender_id",
        "name": "name",
    }

    def perform_destroy(self, instance: Model) -> None:
        actions.delete_broadcast(broadcast_id=instance.pk)

    @extend_schema(request=None, responses=PreflightSerializer)
    @action(detail=True, methods=["post"])
    def preflight(self, request: Request, pk: str) -> Response:
        """Count who would get it now, who would not and why, and what stands in the way."""
        preflight = actions.preflight_broadcast(broadcast_id=self.get_object().pk)
        return Response(PreflightSerializer(preflight.as_dict()).data)

    @extend_schema(request=None, responses=LaunchedSerializer)
    @action(detail=True, methods=["post"])
    def launch(self, request: Request, pk: str) -> Response:
        """Freeze the audience and begin, or schedule it when `scheduled_at` is still to come."""
        launched = actions.launch_broadcast(broadcast_id=self.get_object().pk)
        return Response(LaunchedSerializer(launched).data)

    @extend_schema(request=None, responses=BroadcastSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Stop sending within about a second."""
        actions.pause_broadcast(broadcast_id=self.get_object().pk)
        return self.retrieve(request, pk=pk)

    @extend_schema(request=None, responses=BroadcastSerializer)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Go on sending; refused while what stopped it is still there."""
        actions.resume_broadcast(broadcast_id=self.get_object().pk)
        return self.retrieve(request, pk=pk)

    @extend_schema(request=None, responses=CancelledSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """End it for good. Messages in flight finish."""
        cancelled = actions.cancel_broadcast(broadcast_id=self.get_object().pk)
        return Response(CancelledSerializer({"state": "cancelled", "cancelled": cancelled}).data)

    @extend_schema(request=None, responses=RetriedSerializer)
    @action(detail=True, methods=["post"], url_path="retry-failed")
    def retry_failed(self, request: Request, pk: str) -> Response:
        """Queue again what failed for a reason that may have passed. Never what is in doubt."""
        retried = actions.retry_failed(broadcast_id=self.get_object().pk)
        return Response(RetriedSerializer({"retried": retried}).data)

    @extend_schema(request=ResendSerializer, responses=ResentSerializer)
    @action(detail=True, methods=["post"], url_path="resend-in-doubt")
    def resend_in_doubt(self, request: Request, pk: str) -> Response:
        """Queue again what has been in doubt for so many minutes. Whoever got one after all gets it twice."""
        broadcast = self.get_object()
        asked = ResendSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        resent = actions.resend_in_doubt(broadcast_id=broadcast.pk, **asked.validated_data)
        return Response(ResentSerializer({"resent": resent}).data)

    @extend_schema(responses=ProgressSerializer)
    @action(detail=True, methods=["get"])
    def progress(self, request: Request, pk: str) -> Response:
        """Say how far it is. Each message is counted once, under its state now."""
        return Response(ProgressSerializer(progress_of(self.get_object())).data)


class MessageViewSet(mixins.RetrieveModelMixin, mixins.ListModelMixin, TenantViewSet):
    """Messages as they stand. Written by launches, the engine and webhooks only."""

    model = Message
    serializer_class = MessageSerializer
    select = ("contact", "step")
    filters: ClassVar[dict[str, str]] = {
        "broadcast": "broadcast_id",
        "state": "state",
        "contact": "contact__external_id",
    }

    @extend_schema(responses={(200, "text/csv"): OpenApiTypes.STR})
    @action(detail=False, methods=["get"], renderer_classes=[CsvRenderer], pagination_class=None)
    def export(self, request: Request) -> StreamingHttpResponse:
        """The same list as CSV, all of it, oldest first. Two at once for a tenant; a third gets 429."""
        rows = self.filter_queryset(self.get_queryset())
        return StreamingHttpResponse(
            CsvExport(rows, whose=current_scope()),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="messages.csv"'},
        )


class SuppressionViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    TenantViewSet,
):
    """People who must not be written to. Checked at launch, and again as each message leaves."""

    model = Suppression
    serializer_class = SuppressionSerializer
    select = ("contact",)
    filters: ClassVar[dict[str, str]] = {
        "phone": "phone",
        "channel": "channel",
        "contact": "contact__external_id",
    }

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        serializer.save()
