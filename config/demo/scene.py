"""The demo's tenants and all that a broadcast needs, made through the same actions as everybody's.

Running it again finds what is there and makes only what is missing, and always a new broadcast.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.contrib.auth.models import User
from django.utils.timezone import localtime

from campaigns.actions import import_contacts
from campaigns.imports import ImportReport
from campaigns.models import Campaign, Contact
from config.demo.people import write_csv
from messaging.actions import create_broadcast, create_sender, create_template
from messaging.models import Broadcast, MessageTemplate, Sender
from tenants.actions import add_member, create_api_key, create_tenant, revoke_api_key
from tenants.models import ApiKey, Membership, ProviderToken, Tenant
from tenants.scope import all_tenants, tenant_scope

ADMIN: Final = "admin"  # the name and the password: the demo refuses to run with DEBUG=false
KEY_NAME: Final = "demo"
BRANDS: Final = (
    ("Northwind Coffee", "Europe/Berlin"),
    ("Blue Heron Outdoor", "Europe/London"),
    ("Casa Lumen", "Europe/Madrid"),
    ("Fjordline Ferries", "Europe/Oslo"),
    ("Papaya Records", "America/Sao_Paulo"),
)
OTHERS_CONTACTS: Final = 60
TEMPLATES: Final = (
    (
        "spring_offer",
        MessageTemplate.Category.MARKETING,
        "Hi {{1}}, spring has come to {{2}}: 20 % off everything until Sunday.",
        [{"from": "name", "default": "there"}, {"from": "attributes.city", "default": "town"}],
    ),
    (
        "loyalty_update",
        MessageTemplate.Category.UTILITY,
        "Hello {{1}}, your {{2}} plan now earns double points.",
        [{"from": "name", "default": "there"}, {"from": "attributes.plan", "default": "free"}],
    ),
)


@dataclass(slots=True)
class Scene:
    """What was made: the tenant that sends, its key, its broadcast (a draft), and what the import said."""

    tenant: Tenant
    api_key: str
    broadcast: Broadcast
    report: ImportReport
    tenants: int
    contacts: int


def make_admin() -> User:
    """Make the platform's administrator, admin with the password admin."""
    admin, _ = User.objects.get_or_create(
        username=ADMIN, defaults={"is_staff": True, "is_superuser": True, "email": "admin@example.com"}
    )
    admin.set_password(ADMIN)
    admin.is_staff = admin.is_superuser = admin.is_active = True
    admin.save()
    return admin


def make_scene(*, tenants: int, contacts: int) -> Scene:
    """Make the tenants with people, keys, tokens, senders, templates and contacts, and a new broadcast.

    The first tenant has `contacts` contacts and sends; the others have a few and a draft.
    """
    scenes = []
    for number in range(tenants):
        name, zone = BRANDS[number % len(BRANDS)]
        if number >= len(BRANDS):
            name = f"{name} {number // len(BRANDS) + 1}"
        scenes.append(_make_one(number, name, zone, contacts if number == 0 else OTHERS_CONTACTS))
    tenant, key, broadcast, report = scenes[0]
    with tenant_scope(tenant.pk):
        count = Contact.objects.count()
    return Scene(tenant, key, broadcast, report, tenants, count)


def _make_one(
    number: int, name: str, zone: str, contacts: int
) -> tuple[Tenant, str, Broadcast, ImportReport]:
    with all_tenants():
        tenant = Tenant.objects.filter(name=name).first() or create_tenant(name=name, timezone=zone)[0]
        for role in (Membership.Role.OWNER, Membership.Role.VIEWER):
            _member(tenant, role)
        for old in ApiKey.objects.filter(tenant=tenant, name=KEY_NAME, revoked_at=None):
            revoke_api_key(key_id=old.pk)
        key = create_api_key(tenant=tenant, name=KEY_NAME)
        token = _token(tenant, number)
        sender = _sender(tenant, token, number)
        templates = [_template(tenant, *template) for template in TEMPLATES]
        campaign, _ = Campaign.objects.get_or_create(
            tenant=tenant,
            name="Spring launch",
            defaults={"state": Campaign.State.ACTIVE, "budget": 250_000, "currency": "EUR"},
        )
    report = _import(tenant, number, contacts)
    with tenant_scope(tenant.pk):
        broadcast = create_broadcast(
            tenant_id=tenant.pk,
            campaign_id=campaign.pk,
            sender_id=sender.pk,
            name=f"Spring greetings, {localtime():%d %b %H:%M:%S}",
            steps=[{"template": templates[0].pk, "share": 60}, {"template": templates[1].pk, "share": 40}],
            audience=_audience(number, contacts),
        )
    return tenant, key, broadcast, report


def _audience(number: int, contacts: int) -> dict[str, object]:
    """Name the people one by one when an earlier, larger demo left more of them behind."""
    if Contact.objects.count() > contacts and contacts <= 10_000:
        return {"contacts": [f"{_prefix(number)}-{n:05}" for n in range(1, contacts + 1)]}
    return {"all": True}


def _prefix(number: int) -> str:
    return f"c{number + 1}"


def _member(tenant: Tenant, role: Membership.Role) -> None:
    username = f"{role}-{tenant.slug}"
    user = User.objects.filter(username=username).first()
    if user is None:
        user = User.objects.create_user(username, password=ADMIN, is_staff=True)
    add_member(tenant=tenant, user=user, role=role)


def _token(tenant: Tenant, number: int) -> ProviderToken:
    token = ProviderToken.objects.filter(tenant=tenant, provider="whatsapp").first()
    if token is None:
        token = ProviderToken(
            tenant=tenant,
            provider="whatsapp",
            label="WhatsApp (sandbox)",
            config={"waba_id": f"1000000000000{number + 1:02}"},
        )
        token.secret = f"EAADEMO{number + 1:025}"
        token.save()
    return token


def _sender(tenant: Tenant, token: ProviderToken, number: int) -> Sender:
    found: Sender | None = Sender.objects.filter(tenant=tenant, kind=Sender.Kind.WHATSAPP).first()
    return found or create_sender(
        tenant_id=tenant.pk,
        provider_token_id=token.pk,
        kind=Sender.Kind.WHATSAPP,
        address=f"1065500000000{number + 1:02}",
        label=f"{tenant.name} on WhatsApp",
    )


def _template(
    tenant: Tenant, name: str, category: str, body: str, variables: list[dict[str, str]]
) -> MessageTemplate:
    found: MessageTemplate | None = MessageTemplate.objects.filter(tenant=tenant, name=name).first()
    return found or create_template(
        tenant_id=tenant.pk, name=name, category=category, body=body, variables=variables
    )


def _import(tenant: Tenant, number: int, contacts: int) -> ImportReport:
    """Write the people to a CSV file and bring it in as an operator would."""
    with tempfile.TemporaryDirectory(prefix="turnout-demo-") as folder:
        path = Path(folder) / "contacts.csv"
        write_csv(path, contacts, prefix=_prefix(number))
        with path.open("rb") as file:
            return import_contacts(tenant_id=tenant.pk, file=file)
