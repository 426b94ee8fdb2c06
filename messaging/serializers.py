"""The shapes of messaging's resources. What may be written goes through the actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from campaigns.models import Contact
from campaigns.phones import NotAPhoneNumber, normalise
from messaging import actions, schemas
from messaging.models import Broadcast, Message, MessageTemplate, Sender, Suppression
from tenants.api.serializers import ScopedRelatedField, StrictSerializer, TenantSerializer
from tenants.scope import current_scope


def changed(instance: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Keep what differs: whoever sends back what they read changes nothing."""
    return {name: value for name, value in data.items() if getattr(instance, name) != value}


class SenderSerializer(TenantSerializer):
    class Meta:
        model = Sender
        fields = [
            "id",
            "provider_token",
            "kind",
            "address",
            "label",
            "display_number",
            "rate_per_second",
            "in_doubt_minutes",
            "quality",
            "created_at",
        ]
        read_only_fields = ["quality", "created_at"]
        validators: list[Any] = []  # the action says whose address it is

    def create(self, validated_data: dict[str, Any]) -> Sender:
        token = validated_data.pop("provider_token")
        return actions.create_sender(provider_token_id=token.pk, **validated_data)

    def update(self, instance: Sender, validated_data: dict[str, Any]) -> Sender:
        return actions.update_sender(sender_id=instance.pk, **changed(instance, validated_data))


class TemplateSerializer(TenantSerializer):
    variables = serializers.ListField(
        child=serializers.JSONField(),
        required=False,
        max_length=schemas.MOST_VARIABLES,
        help_text='Each "name", "phone", "email", "external_id" or "attributes.<key>", '
        'or {"from": one of these, "default": text}.',
    )
    components = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        max_length=schemas.MOST_COMPONENTS,
        help_text=f"Beside the body, as sent. Each has its type: {', '.join(schemas.COMPONENT_TYPES)}.",
    )

    class Meta:
        model = MessageTemplate
        fields = [
            "id",
            "name",
            "language",
            "category",
            "body",
            "variables",
            "components",
            "state",
            "quality",
            "vendor_id",
            "created_at",
        ]
        read_only_fields = ["quality", "created_at"]
        validators: list[Any] = []

    def create(self, validated_data: dict[str, Any]) -> MessageTemplate:
        return actions.create_template(**validated_data)

    def update(self, instance: MessageTemplate, validated_data: dict[str, Any]) -> MessageTemplate:
        return actions.update_template(template_id=instance.pk, **changed(instance, validated_data))


class StepSerializer(StrictSerializer):
    template = ScopedRelatedField(queryset=MessageTemplate.objects)
    share = serializers.IntegerField(min_value=1, max_value=100, help_text="Percent of the audience.")
    position = serializers.IntegerField(read_only=True)
    state = serializers.CharField(read_only=True)
    pause_detail = serializers.CharField(read_only=True)

    def _refused(self, data: Mapping[str, Any]) -> dict[str, list[str]]:
        """Let what was read be sent back: a step has no id by which to compare it."""
        return {name: why for name, why in super()._refused(data).items() if name not in self.fields}


class BroadcastSerializer(TenantSerializer):
    steps = StepSerializer(many=True, allow_empty=False)
    audience = serializers.DictField(
        child=serializers.JSONField(),
        help_text='{"all": true}, {"segment": id} or {"contacts": [external_id, …]}',
    )

    class Meta:
        model = Broadcast
        fields = [
            "id",
            "campaign",
            "sender",
            "name",
            "steps",
            "audience",
            "scheduled_at",
            "state",
            "pause_reason",
            "pause_detail",
            "total",
            "excluded",
            "launched_at",
            "ended_at",
            "created_at",
        ]
        read_only_fields = [
            "state",
            "pause_reason",
            "pause_detail",
            "total",
            "excluded",
            "launched_at",
            "ended_at",
            "created_at",
        ]

    def create(self, validated_data: dict[str, Any]) -> Broadcast:
        return actions.create_broadcast(**self._ids(validated_data))

    def update(self, instance: Broadcast, validated_data: dict[str, Any]) -> Broadcast:
        broadcast = actions.update_broadcast(broadcast_id=instance.pk, **self._ids(validated_data))
        broadcast._prefetched_objects_cache = {}  # type: ignore[attr-defined]
        return broadcast

    @staticmethod
    def _ids(data: dict[str, Any]) -> dict[str, Any]:
        data = dict(data)
        for name in ("campaign", "sender"):
            if name in data:
                data[f"{name}_id"] = data.pop(name).pk
        if "steps" in data:
            data["steps"] = [
                {"template": step["template"].pk, "share": step["share"]} for step in data["steps"]
            ]
        return data


class MessageSerializer(TenantSerializer):
    contact = serializers.CharField(source="contact.external_id", read_only=True)
    step = serializers.IntegerField(source="step.position", read_only=True)

    class Meta:
        model = Message
        fields = [
            "id",
            "broadcast",
            "step",
            "contact",
            "phone",
            "parameters",
            "state",
            "attempts",
            "error_code",
            "error_detail",
            "wamid",
            "accepted_at",
            "sent_at",
            "delivered_at",
            "read_at",
            "failed_at",
            "in_doubt_at",
            "created_at",
        ]
        read_only_fields = fields


class SuppressionSerializer(TenantSerializer):
    phone = serializers.CharField(required=False, max_length=40, help_text="E.164; or name a contact.")
    contact = serializers.SlugRelatedField(
        slug_field="external_id", queryset=Contact.objects, required=False, allow_null=True
    )
    reason = serializers.CharField(max_length=200, required=False, default="by API")

    class Meta:
        model = Suppression
        fields = ["id", "phone", "contact", "channel", "reason", "created_at"]
        read_only_fields = ["created_at"]
        validators: list[Any] = []

    def validate_phone(self, phone: str) -> str:
        try:
            return normalise(phone)
        except NotAPhoneNumber as error:
            raise serializers.ValidationError(f"{phone} {error}") from None

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if bool(attrs.get("phone")) == bool(attrs.get("contact")):
            raise serializers.ValidationError({"phone": ["Give a phone or a contact, one of them."]})
        contact = attrs.get("contact")
        if contact is not None and not contact.phone:
            raise serializers.ValidationError({"contact": ["This contact has no phone."]})
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Suppression:
        """Suppress; somebody suppressed already stays so, with the reason on record."""
        contact = validated_data.get("contact")
        phone = contact.phone if contact else validated_data["phone"]
        channel = validated_data.get("channel", Suppression.Channel.ALL)
        actions.suppress(
            tenant_id=int(current_scope()),
            phones=[] if contact else [phone],
            contact_ids=[contact.pk] if contact else [],
            channel=channel,
            reason=validated_data["reason"],
        )
        found: Suppression = Suppression.objects.get(phone=phone, channel=channel)
        return found


# -- answers of verbs


class LaunchedSerializer(serializers.Serializer[Any]):
    state = serializers.CharField(help_text="running, or scheduled with nobody frozen yet")
    total = serializers.IntegerField()
    excluded = serializers.DictField(child=serializers.IntegerField())


class CancelledSerializer(serializers.Serializer[Any]):
    state = serializers.CharField()
    cancelled = serializers.IntegerField(help_text="Of a big broadcast the rest follows within minutes.")


class RetriedSerializer(serializers.Serializer[Any]):
    retried = serializers.IntegerField()


class ResendSerializer(StrictSerializer):
    older_than_minutes = serializers.IntegerField(
        min_value=1,
        max_value=actions.LONGEST_MINUTES,
        help_text="How long they have been in doubt. Whoever got one of them after all gets it twice.",
    )


class ResentSerializer(serializers.Serializer[Any]):
    resent = serializers.IntegerField()


class PreflightStepSerializer(serializers.Serializer[Any]):
    position = serializers.IntegerField()
    template = serializers.IntegerField()
    name = serializers.CharField()
    template_state = serializers.CharField()
    share = serializers.IntegerField()
    size = serializers.IntegerField()


class PreflightSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    sendable = serializers.IntegerField()
    excluded = serializers.DictField(child=serializers.IntegerField(), help_text="By reason.")
    us_marketing = serializers.IntegerField()
    token_state = serializers.CharField()
    steps = PreflightStepSerializer(many=True)
    estimated_seconds = serializers.FloatField()
    warnings = serializers.ListField(child=serializers.CharField())
    errors = serializers.ListField(  # type: ignore[assignment]
        child=serializers.CharField(), help_text="Each would refuse the launch."
    )


class CountsSerializer(serializers.Serializer[Any]):
    state = serializers.CharField()
    pause_detail = serializers.CharField()
    total = serializers.IntegerField()
    queued = serializers.IntegerField()
    sending = serializers.IntegerField()
    accepted = serializers.IntegerField()
    sent = serializers.IntegerField()
    delivered = serializers.IntegerField()
    read = serializers.IntegerField()
    failed = serializers.IntegerField()
    in_doubt = serializers.IntegerField()
    suppressed = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class ProgressStepSerializer(CountsSerializer):
    position = serializers.IntegerField()
    template = serializers.IntegerField()
    name = serializers.CharField()
    share = serializers.IntegerField()


class ProgressSerializer(CountsSerializer):
    pause_reason = serializers.CharField()
    held_by = serializers.CharField(
        help_text="What keeps a running broadcast from going out although nobody has paused it, or empty."
    )
    rate_per_second = serializers.FloatField()
    eta_seconds = serializers.IntegerField(allow_null=True)
    excluded = serializers.DictField(child=serializers.IntegerField())
    steps = ProgressStepSerializer(many=True)
