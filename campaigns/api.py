"""Contacts, campaigns, segments and cohorts for a tenant's own systems."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from campaigns import actions, contact_rows, phones
from campaigns.contact_files import FileRefused
from campaigns.contact_rows import Account, Unusable
from campaigns.models import Campaign, Cohort, Contact, Segment, SocialAccount
from campaigns.segments import check_rules
from tenants.api.parsers import StrictJSONParser
from tenants.api.problems import TooLarge
from tenants.api.serializers import ScopedRelatedField, StrictSerializer, TenantSerializer, whole_body
from tenants.api.viewsets import TenantModelViewSet
from tenants.scope import current_scope

MAX_ROWS = 10_000


# -- contacts


class AccountSerializer(StrictSerializer):
    platform = serializers.ChoiceField(SocialAccount.Platform.choices)
    user_id = serializers.CharField(required=False, allow_blank=True, max_length=64)
    username = serializers.CharField(
        required=False, allow_blank=True, max_length=65, help_text="With or without @."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("user_id", "username"):
            attrs[name] = _usable(contact_rows.clean_account_name, attrs.get(name, ""))
        attrs["username"] = attrs["username"].lower()
        if not (attrs["user_id"] or attrs["username"]):
            raise serializers.ValidationError("Needs a user_id or a username.")
        return attrs


class ContactSerializer(TenantSerializer):
    """`attributes` and `accounts` are replaced as a whole when they are sent, and kept when they are not."""

    attributes = serializers.DictField(required=False)
    accounts = AccountSerializer(  # type: ignore[call-arg]
        many=True, required=False, max_length=contact_rows.MAX_ACCOUNTS
    )
    phone = serializers.CharField(
        required=False, allow_blank=True, max_length=64, help_text="With its country code; kept as E.164."
    )
    timezone = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=64,
        help_text="IANA. Left out: read from the phone number, and empty where that may be in several.",
    )

    class Meta:
        model = Contact
        fields = [
            "id",
            "external_id",
            "phone",
            "email",
            "name",
            "timezone",
            "attributes",
            "accounts",
            "created_at",
            "updated_at",
        ]
        read_only_fields = ["created_at", "updated_at"]

    def validate_phone(self, value: str) -> str:
        return value and _usable(phones.normalise, value)

    def validate_email(self, value: str) -> str:
        return value and _usable(contact_rows.normalise_email, value)

    def validate_timezone(self, value: str) -> str:
        return value and _usable(contact_rows.check_time_zone, value)

    def validate_attributes(self, value: dict[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = _usable(contact_rows.check_attributes, value)
        return checked

    def create(self, validated_data: dict[str, Any]) -> Contact:
        return self._save(Contact(tenant_id=validated_data.pop("tenant_id")), validated_data)

    def update(self, instance: Contact, validated_data: dict[str, Any]) -> Contact:
        return self._save(instance, validated_data)

    def _save(self, contact: Contact, data: dict[str, Any]) -> Contact:
        accounts = data.pop("accounts", None)
        for name, value in data.items():
            setattr(contact, name, value)
        actions.save_contact(
            contact=contact,
            accounts=None if accounts is None else [Account(**account) for account in accounts],
            timezone_given=bool(data.get("timezone")),
        )
        contact._prefetched_objects_cache = {}  # type: ignore[attr-defined]
        return contact


class CsvParser(BaseParser):
    """Hand the bytes on: `contact_files` reads them."""

    media_type = "text/csv"

    def parse(  # type: ignore[override]
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        body: bytes = stream.read()
        return body


class RejectedRowSerializer(serializers.Serializer[Any]):
    row = serializers.IntegerField(help_text="Counted from 1; in a CSV, the line, the header being 1.")
    errors = serializers.ListField(child=serializers.CharField())  # type: ignore[assignment]


class ImportReportSerializer(serializers.Serializer[Any]):
    created = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    rejected = RejectedRowSerializer(many=True)


class ContactViewSet(TenantModelViewSet):
    model = Contact
    serializer_class = ContactSerializer
    prefetch = ("accounts",)
    filters: ClassVar[dict[str, str]] = {"external_id": "external_id", "phone": "phone", "email": "email"}

    @extend_schema(
        request={"application/json": ContactSerializer(many=True), "text/csv": OpenApiTypes.STR},
        responses=ImportReportSerializer,
        parameters=[
            OpenApiParameter(
                "region", OpenApiTypes.STR, description="Of numbers without a country code, e.g. DE."
            )
        ],
    )
    @action(detail=False, methods=["post"], url_path="import", parser_classes=[StrictJSONParser, CsvParser])
    def import_(self, request: Request) -> Response:
        """Create and update up to 10,000 contacts by external_id. Good rows go in whatever the others are."""
        if unknown := set(request.query_params) - {"region"}:
            raise ValidationError({name: ["Unknown parameter. Known is: region."] for name in unknown})
        body: object = request.data
        if not isinstance(body, list | bytes):
            raise whole_body("Send a JSON array of contacts, or text/csv.")
        if isinstance(body, list) and len(body) > MAX_ROWS:
            raise TooLarge(f"{len(body):,} rows: at most {MAX_ROWS:,} at a time.")
        try:
            report = actions.import_contacts(
                tenant_id=int(current_scope()),
                rows=body if isinstance(body, list) else None,
                file=io.BytesIO(body) if isinstance(body, bytes) else None,
                region=request.query_params.get("region"),
                max_rows=MAX_ROWS,
            )
        except actions.TooManyRows as refused:
            raise TooLarge(refused.reason) from None
        except FileRefused as refused:
            raise whole_body(refused.reason) from None
        rejected = [{"row": row, "errors": errors} for row, errors in report.rejected]
        return Response(
            {
                "created": report.created,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "rejected": rejected,
            }
        )


def _usable(check: Callable[[Any], Any], value: Any) -> Any:
    """Run a check of `contact_rows` or `phones`, and tell its refusal as the field's."""
    try:
        return check(value)
    except (Unusable, phones.NotAPhoneNumber) as error:
        raise serializers.ValidationError(str(error)) from None


# -- campaigns


class CampaignSerializer(TenantSerializer):
    state = serializers.ChoiceField(
        Campaign.State.choices,
        required=False,
        help_text="At first draft (the default) or active; then by pause, resume and complete.",
    )
    currency = serializers.RegexField("^[A-Z]{3}$", required=False, help_text="ISO 4217, e.g. EUR.")

    class Meta:
        model = Campaign
        fields = ["id", "name", "state", "starts_at", "ends_at", "budget", "currency", "created_at"]
        read_only_fields = ["created_at"]

    def validate_state(self, state: str) -> str:
        if self.instance is None and state not in (Campaign.State.DRAFT, Campaign.State.ACTIVE):
            raise serializers.ValidationError("A new campaign is draft or active.")
        if self.instance is not None and state != self.instance.state:
            raise serializers.ValidationError("Use pause/, resume/ or complete/.")
        return state


class CampaignViewSet(TenantModelViewSet):
    """Their state is changed by `pause/`, `resume/` (which also starts a draft) and `complete/`."""

    model = Campaign
    serializer_class = CampaignSerializer
    filters: ClassVar[dict[str, str]] = {"state": "state", "name": "name"}

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        return self._moved(actions.pause_campaign)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        return self._moved(actions.resume_campaign)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def complete(self, request: Request, pk: str) -> Response:
        return self._moved(actions.complete_campaign)

    def _moved(self, verb: Callable[..., Campaign]) -> Response:
        campaign = verb(campaign_id=self.get_object().pk)
        return Response(self.get_serializer(campaign).data)


# -- segments and cohorts


class CountSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField()


class SegmentSerializer(TenantSerializer):
    rules = serializers.DictField(help_text="See docs/api.md; {} chooses everybody.")

    class Meta:
        model = Segment
        fields = ["id", "name", "rules", "created_at"]
        read_only_fields = ["created_at"]

    def validate_rules(self, rules: dict[str, Any]) -> dict[str, Any]:
        check_rules(rules)
        return rules


class SegmentViewSet(TenantModelViewSet):
    model = Segment
    serializer_class = SegmentSerializer
    filters: ClassVar[dict[str, str]] = {"name": "name"}

    @extend_schema(responses=CountSerializer)
    @action(detail=True)
    def count(self, request: Request, pk: str) -> Response:
        """Count the contacts whom the rules choose now."""
        return Response({"count": Contact.objects.in_segment(self.get_object()).count()})


class CohortSerializer(TenantSerializer):
    """Made of a segment as it is now, of contacts by external_id, or of everybody; then only renamed."""

    segment = ScopedRelatedField(queryset=Segment.objects, required=False, write_only=True)
    contacts = serializers.ListField(
        child=serializers.CharField(max_length=128), max_length=MAX_ROWS, required=False, write_only=True
    )

    class Meta:
        model = Cohort
        fields = ["id", "name", "segment", "contacts", "created_at"]
        read_only_fields = ["created_at"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        made_of = [name for name in ("segment", "contacts") if name in attrs]
        if self.instance is not None and made_of:
            raise serializers.ValidationError({made_of[0]: ["A cohort keeps its contacts: make another."]})
        if len(made_of) == 2:
            raise serializers.ValidationError({"contacts": ["Give a segment or contacts, not both."]})
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Cohort:
        cohort, _ = actions.create_cohort(**validated_data)
        return cohort


class CohortViewSet(TenantModelViewSet):
    model = Cohort
    serializer_class = CohortSerializer
    filters: ClassVar[dict[str, str]] = {"name": "name"}

    @extend_schema(responses=CountSerializer)
    @action(detail=True)
    def count(self, request: Request, pk: str) -> Response:
        """Count the cohort's contacts."""
        return Response({"count": Contact.objects.in_cohort(self.get_object()).count()})
