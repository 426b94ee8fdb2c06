"""Provider tokens."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django.utils.timezone import now
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from engine.actions.tokens import check_token
from tenants.api.serializers import TenantSerializer
from tenants.api.viewsets import TenantModelViewSet
from tenants.middleware import no_transaction
from tenants.models import ProviderToken, VendorAccount
from tenants.scope import tenant_scope
from tenants.token_settings import SECRET_SETTINGS, SETTINGS, wrong_settings


class ProvedAccountSerializer(serializers.Serializer[Any]):
    account_id = serializers.CharField()
    proved_at = serializers.DateTimeField()


class ProviderTokenSerializer(TenantSerializer):
    """`secret`, and the secret settings inside `config`, are taken and never given."""

    secret = serializers.CharField(write_only=True, trim_whitespace=True, max_length=4096)
    config = serializers.DictField(
        required=False,
        help_text="What the vendor needs beside the secret, e.g. waba_id, version. "
        f"{', '.join(SECRET_SETTINGS)} are sealed: shown as null, kept if sent so, removed if sent empty.",
    )

    accounts = serializers.SerializerMethodField(
        help_text="The vendor's accounts of this provider that are proved to be the tenant's own."
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
            "accounts",
        ]
        read_only_fields = ["state", "checked_at", "last_error", "created_at"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        provider = str(attrs.get("provider") or getattr(self.instance, "provider", ""))
        if wrong := wrong_settings(provider, attrs.get("config", {})):
            raise serializers.ValidationError({"config": wrong})
        return attrs

    def validate_provider(self, provider: str) -> str:
        if self.instance is not None and provider != self.instance.provider:
            raise serializers.ValidationError("A token stays with its provider: make another one.")
        return provider

    def to_representation(self, instance: ProviderToken) -> dict[str, Any]:
        return {**super().to_representation(instance), "config": instance.shown_config}

    @extend_schema_field(ProvedAccountSerializer(many=True))
    def get_accounts(self, token: ProviderToken) -> list[dict[str, Any]]:
        """Look the tenant's proved accounts up once for a whole list."""
        known: dict[str, list[dict[str, Any]]] = cast("dict[str, Any]", self.context).setdefault(
            "accounts", {}
        )
        if not known:
            known.update({name: [] for name in SETTINGS})
            for account in VendorAccount.objects.order_by("provider", "account_id"):
                shown = dict(ProvedAccountSerializer(account).data)
                known.setdefault(account.provider, []).append(shown)
        return known.get(token.provider, [])

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
