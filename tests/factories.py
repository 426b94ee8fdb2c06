"""Rows for tests, with sensible values and unique names. Make them inside a scope.

`TenantFactory()` and the others make what they stand on; give `tenant=` to keep a row and everything
under it in one tenant.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Model
from factory.declarations import LazyAttribute, LazyFunction, SelfAttribute, Sequence, SubFactory
from factory.django import DjangoModelFactory, Password

from campaigns import models as campaigns
from engine import models as engine
from messaging import models as messaging
from tenants import keys
from tenants import models as tenants
from tenants.scope import all_tenants


class UserFactory(DjangoModelFactory):
    class Meta:
        model = get_user_model()
        skip_postgeneration_save = True

    username = Sequence("user{}".format)
    password = Password("a-password-of-tests")


class TenantFactory(DjangoModelFactory):
    class Meta:
        model = tenants.Tenant

    name = Sequence("Tenant {}".format)
    slug = Sequence("tenant-{}".format)


class OfTenant(DjangoModelFactory):
    """The base of rows that belong to a tenant."""

    class Meta:
        abstract = True

    tenant = SubFactory(TenantFactory)


def same_tenant(of: type[DjangoModelFactory]) -> SubFactory:
    """Make a parent in the row's own tenant."""
    return SubFactory(of, tenant=SelfAttribute("..tenant"))


class MembershipFactory(OfTenant):
    """A person of the admin: an operator, unless `role` says otherwise."""

    class Meta:
        model = tenants.Membership

    user = SubFactory(UserFactory, is_staff=True)
    role = tenants.Membership.Role.OPERATOR


class ApiKeyFactory(OfTenant):
    """A key with every scope. The key itself is `ApiKeyFactory().plain`."""

    class Meta:
        model = tenants.ApiKey
        exclude = ("made",)

    made = LazyFunction(keys.make_key)
    name = Sequence("key {}".format)
    prefix = LazyAttribute(lambda key: key.made[1])
    digest = LazyAttribute(lambda key: key.made[2])
    scopes = ["*"]

    @classmethod
    def _generate(cls, strategy, params):
        made = params.pop("made", None) or keys.make_key()
        key = super()._generate(strategy, {**params, "made": made})
        key.plain = made[0]
        return key


class IdempotentRequestFactory(OfTenant):
    class Meta:
        model = tenants.IdempotentRequest

    key = Sequence("request-{}".format)
    fingerprint = "0" * 64


class ProviderTokenFactory(OfTenant):
    class Meta:
        model = tenants.ProviderToken

    provider = "whatsapp"
    label = Sequence("token {}".format)
    secret = Sequence("EAAtestsecret{}".format)
    config = LazyFunction(lambda: {"waba_id": "102290129340398"})


class VendorAccountFactory(OfTenant):
    class Meta:
        model = tenants.VendorAccount

    provider = "whatsapp"
    account_id = Sequence("1022901293{:05d}".format)


class LaneFactory(OfTenant):
    class Meta:
        model = engine.Lane

    queue = "messaging"
    processor = "messages"
    name = Sequence("10{:013d}".format)
    token = same_tenant(ProviderTokenFactory)
    rate_per_second = 80


class AllowanceFactory(OfTenant):
    """A monthly budget, since a token's calls an hour are kept by its `hourly_allowance`."""

    class Meta:
        model = engine.Allowance

    token = same_tenant(ProviderTokenFactory)
    unit = "usd_cents"
    limit = 5_000
    window = engine.Allowance.Window.CALENDAR_MONTH


class FlowHoldFactory(OfTenant):
    class Meta:
        model = engine.FlowHold

    processor = "messages"
    flow = Sequence(int)
    reason = "template"


class RunFactory(DjangoModelFactory):
    class Meta:
        model = engine.Run

    queue = "messaging"
    process = "tests:1"


class IncidentFactory(DjangoModelFactory):
    """Nobody's in particular, unless `tenant` says whose."""

    class Meta:
        model = engine.Incident

    kind = "token_dead"
    scope = Sequence("token:{}".format)
    summary = "A token is dead"


class ReceiptFactory(DjangoModelFactory):
    class Meta:
        model = engine.Receipt

    provider = "whatsapp"
    body = b'{"object":"whatsapp_business_account","entry":[]}'


class CampaignFactory(OfTenant):
    class Meta:
        model = campaigns.Campaign

    name = Sequence("Campaign {}".format)
    state = campaigns.Campaign.State.ACTIVE


class ContactFactory(OfTenant):
    class Meta:
        model = campaigns.Contact

    external_id = Sequence("c{}".format)
    # Ofcom keeps +44 7700 900000 to 900999 free for drama, so these are nobody's
    phone = Sequence(lambda n: f"+447700{900000 + n % 1000}")
    email = LazyAttribute(lambda contact: f"{contact.external_id}@example.org")
    name = Sequence("Contact {}".format)
    timezone = "Europe/London"


class SocialAccountFactory(OfTenant):
    class Meta:
        model = campaigns.SocialAccount

    contact = same_tenant(ContactFactory)
    platform = campaigns.SocialAccount.Platform.INSTAGRAM
    user_id = Sequence("17841400{}".format)
    username = Sequence("person{}".format)


class SegmentFactory(OfTenant):
    class Meta:
        model = campaigns.Segment

    name = Sequence("Segment {}".format)


class CohortFactory(OfTenant):
    class Meta:
        model = campaigns.Cohort

    name = Sequence("Cohort {}".format)


class CohortMemberFactory(OfTenant):
    class Meta:
        model = campaigns.CohortMember

    cohort = same_tenant(CohortFactory)
    contact = same_tenant(ContactFactory)


class SpinEntryFactory(OfTenant):
    class Meta:
        model = campaigns.SpinEntry

    campaign = same_tenant(CampaignFactory)
    contact = same_tenant(ContactFactory)
    spins = 3
    reason = campaigns.SpinEntry.Reason.WON
    source = Sequence("completion:{}".format)


class SenderFactory(OfTenant):
    """A WhatsApp number with its lane, both on one token."""

    class Meta:
        model = messaging.Sender

    provider_token = same_tenant(ProviderTokenFactory)
    kind = messaging.Sender.Kind.WHATSAPP
    address = Sequence("20{:013d}".format)
    rate_per_second = 80
    lane = SubFactory(
        LaneFactory,
        tenant=SelfAttribute("..tenant"),
        token=SelfAttribute("..provider_token"),
        name=SelfAttribute("..address"),
    )


class MessageTemplateFactory(OfTenant):
    class Meta:
        model = messaging.MessageTemplate

    name = Sequence("template_{}".format)
    body = "Hello {{1}}, your prize is waiting."
    variables = LazyFunction(lambda: ["name"])


class BroadcastFactory(OfTenant):
    class Meta:
        model = messaging.Broadcast

    campaign = same_tenant(CampaignFactory)
    sender = same_tenant(SenderFactory)
    name = Sequence("Broadcast {}".format)
    audience = LazyFunction(lambda: {"all": True})


class BroadcastStepFactory(OfTenant):
    class Meta:
        model = messaging.BroadcastStep

    broadcast = same_tenant(BroadcastFactory)
    position = 1
    template = same_tenant(MessageTemplateFactory)
    share = 100


class MessageFactory(OfTenant):
    """A queued message of the only step of its broadcast."""

    class Meta:
        model = messaging.Message

    step = same_tenant(BroadcastStepFactory)
    broadcast = SelfAttribute("step.broadcast")
    lane = SelfAttribute("step.broadcast.sender.lane")
    contact = same_tenant(ContactFactory)
    phone = SelfAttribute("contact.phone")


class SuppressionFactory(OfTenant):
    class Meta:
        model = messaging.Suppression

    contact = same_tenant(ContactFactory)
    phone = Sequence(lambda n: f"+447700{900000 + n % 1000}")
    reason = "asked to stop"


class CorrespondentFactory(OfTenant):
    class Meta:
        model = messaging.Correspondent

    phone = Sequence(lambda n: f"+447700{900000 + n % 1000}")


def two_tenants() -> tuple[tenants.Tenant, tenants.Tenant]:
    """Make the two tenants that every fixture needs: what one does must not be seen by the other."""
    with all_tenants():
        return (
            TenantFactory.create(name="Acme", slug="acme"),
            TenantFactory.create(name="Bolt", slug="bolt"),
        )


RESOURCES: dict[str, Any] = {
    "contacts": ContactFactory,
    "campaigns": CampaignFactory,
    "segments": SegmentFactory,
    "cohorts": CohortFactory,
    "provider-tokens": ProviderTokenFactory,
    "usage": LaneFactory,
    "senders": SenderFactory,
    "templates": MessageTemplateFactory,
    "broadcasts": BroadcastFactory,
    "messages": MessageFactory,
    "suppressions": SuppressionFactory,
}
"""What makes a row of each resource of the API, by its basename."""


def factory_of(model: type[Model]) -> Any:
    """Find the factory of a tenant-owned model."""
    return next(made for made in OfTenant.__subclasses__() if made._meta.model is model)
