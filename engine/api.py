"""Provider tokens and their lanes' use of what the vendor allows."""

from __future__ import annotations

from typing import Any, ClassVar

from django.utils.timezone import now
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from engine.actions.tokens import check_token
from engine.models import Lane
from tenants.api.serializers import TenantSerializer
from tenants.api.viewsets import TenantModelViewSet, TenantViewSet
from tenants.middleware import no_transaction
from tenants.models import ProviderToken
from tenants.scope import tenant_scope
from tenants.token_settings import SECRET_SETTINGS, wrong_settings


class ProviderTokenSerializer(TenantSerializer):
    """`secret`, and the secret settings inside `config`, are taken and never given."""

    secret = serializers.CharField(write_only=True, trim_whitespace=True, max_length=4096)
    config = serializers.DictField(
        required=False,
        help_text="What the vendor needs beside the secret, e.g. waba_id, version. "
        f"{', '.join(SECRET_SETTINGS)} are sealed: shown as null, kept if sent so, removed if sent empty.",
    )

    class Meta:
        model = ProviderToken
        fields = [
            "id",
            "provider",
            "label",
            "secret",
            "config",
            "hourly_allowance",
            "expires_at",
            "state",
            "checked_at",
            "last_error",
            "created_at",
        ]
        read_only_fields = ["state", "checked_at", "last_error", "created_at"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        provider = attrs.get("provider") or getattr(self.instance, "provider", "")
        if wrong := wrong_settings(provider, attrs.get("config", {})):
            raise serializers.ValidationError({"config": wrong})
        return attrs

    def validate_provider(self, provider: str) -> str:
        if self.instance is not None and provider != self.instance.provider:
            raise serializers.ValidationError("A token stays with its provider: make another one.")
        return provider

    def to_representation(self, instance: ProviderToken) -> dict[str, Any]:
        return {**super().to_representation(instance), "config": instance.shown_config}

    def create(self, validated_data: dict[str, Any]) -> ProviderToken:
        token = ProviderToken(tenant_id=validated_data.pop("tenant_id"))
        return self._write(token, validated_data)

    def update(self, instance: ProviderToken, validated_data: dict[str, Any]) -> ProviderToken:
        return self._write(instance, validated_data)

    def _write(self, token: ProviderToken, data: dict[str, Any]) -> ProviderToken:
        config = data.pop("config", None)
        if config is not None:
            token.set_config(config)
        if "secret" in data and token.pk:
            # a new secret deserves a new chance; the next check says what it is worth
            token.state, token.last_error = ProviderToken.State.ACTIVE, ""
        for name, value in data.items():
            setattr(token, name, value)
        token.save()
        return token


class StandingSerializer(serializers.Serializer[Any]):
    state = serializers.ChoiceField(ProviderToken.State.choices)
    detail = serializers.CharField(help_text="The vendor's words.")
    checked_at = serializers.DateTimeField()


class ProviderTokenViewSet(TenantModelViewSet):
    model = ProviderToken
    serializer_class = ProviderTokenSerializer
    filters: ClassVar[dict[str, str]] = {"provider": "provider", "state": "state"}

    @extend_schema(request=None, responses=StandingSerializer)
    @action(detail=True, methods=["post"])
    @no_transaction
    def check(self, request: Request, pk: str) -> Response:
        """Ask the vendor now whether the token still works."""
        tenant_id: int = request._request.tenant.pk  # type: ignore[attr-defined]
        with tenant_scope(tenant_id):
            token_id = self.get_object().pk
        standing, detail = check_token(token_id=token_id)
        answer = {"state": standing.value, "detail": detail, "checked_at": now()}
        return Response(StandingSerializer(answer).data)


class UsageSerializer(TenantSerializer):
    """One lane: what the vendor allows it, what is used, and what holds it back."""

    provider = serializers.CharField(source="token.provider", read_only=True)
    used = serializers.SerializerMethodField()
    remaining = serializers.SerializerMethodField(help_text="Null: no limit.")
    resets_at = serializers.SerializerMethodField()

    class Meta:
        model = Lane
        fields = [
            "id",
            "queue",
            "name",
            "provider",
            "token",
            "rate_per_second",
            "rate_now",
            "allowance",
            "window",
            "used",
            "remaining",
            "resets_at",
            "breaker",
            "open_until",
            "paused_at",
            "pause_reason",
            "last_error",
        ]
        read_only_fields = fields

    def _window_is_over(self, lane: Lane) -> bool:
        return lane.window_ends_at is not None and lane.window_ends_at <= now()

    @extend_schema_field(int)
    def get_used(self, lane: Lane) -> int:
        return 0 if self._window_is_over(lane) else lane.used

    @extend_schema_field({"type": ["integer", "null"]})
    def get_remaining(self, lane: Lane) -> int | None:
        return None if lane.allowance is None else lane.allowance - self.get_used(lane)

    @extend_schema_field({"type": ["string", "null"], "format": "date-time"})
    def get_resets_at(self, lane: Lane) -> str | None:
        if lane.window_ends_at is None or self._window_is_over(lane):
            return None  # starts with the next call
        shown: str = serializers.DateTimeField().to_representation(lane.window_ends_at)
        return shown


class UsageViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Every lane's allowance, use and reset."""

    model = Lane
    select = ("token",)
    serializer_class = UsageSerializer
    filters: ClassVar[dict[str, str]] = {"queue": "queue", "token": "token_id"}
