"""What a webhook may change: its signer's own, and of an account's notices only what its owner has.

globex has proved the account GLOBEX with Meta. acme declares it in a token of its own, with an app secret of
its own, and so can sign whatever it likes about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from django.conf import settings
from django.test import Client

from config.webhooks import secrets
from engine.clock.tasks import run_queue
from engine.models import Incident, Receipt
from messaging.actions import launch_broadcast
from messaging.models import Broadcast, Message, MessageTemplate, Sender, Suppression
from providers.whatsapp import sign
from tenants.models import Tenant, VendorAccount
from tests.messaging.build import make_broadcast, make_contacts, make_sender, make_template, make_token

ACME, GLOBEX, NOBODYS = "1001", "1002", "1003"
ACMES_SECRET = "secret of acme"
URL = "/webhooks/whatsapp/"
RESTRICTION = {
    "event": "ACCOUNT_RESTRICTION",
    "restriction_info": [{"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING"}],
}


@pytest.fixture
def sending(acme: Tenant, globex: Tenant, _fresh: None) -> dict[str, Broadcast]:
    """A running broadcast of each tenant, by a template of the same name."""
    found = {}
    for tenant, account in ((acme, ACME), (globex, GLOBEX)):
        VendorAccount.objects.create(tenant=tenant, provider="whatsapp", account_id=account)
        token = make_token(tenant, config={"waba_id": account})
        if tenant == acme:
            token.secret_config = {"app_secret": ACMES_SECRET}
            token.save()
            # claims what is not its own, once more with the same app
            liar = make_token(tenant, config={"waba_id": GLOBEX})
            liar.secret_config = {"app_secret": ACMES_SECRET}
            liar.save()
        make_contacts(tenant, 1)
        template = make_template(tenant, name="offer")
        broadcast = make_broadcast(tenant, template, sender=make_sender(tenant, token=token))
        launch_broadcast(broadcast_id=broadcast.pk)
        Message.objects.filter(tenant=tenant).update(state="accepted", wamid=f"wamid.{tenant.slug}")
        found[tenant.slug] = broadcast
    return found


@pytest.fixture
def _fresh() -> Iterator[None]:
    secrets.forget()
    yield
    secrets.forget()


def notice(entry_id: str, field: str, value: dict[str, Any]) -> bytes:
    entry = {"id": entry_id, "time": 1_790_000_000, "changes": [{"field": field, "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


def post(body: bytes, secret: str) -> None:
    """Post a signed webhook and let the events queue work it off, whatever the answer."""
    Client().post(
        URL, body, content_type="application/json", headers={"X-Hub-Signature-256": sign(body, secret)}
    )
    run_queue("events", seconds=20, until_empty=True)
    assert not Receipt.objects.exclude(error="").exists()


def state_of(tenant: Tenant) -> tuple[Any, ...]:
    """Everything of a tenant's that webhooks can change."""
    return (
        list(Broadcast.objects.filter(tenant=tenant).values_list("state", "pause_reason")),
        list(MessageTemplate.objects.filter(tenant=tenant).values_list("state", "quality")),
        list(Sender.objects.filter(tenant=tenant).values_list("quality", flat=True)),
        list(Message.objects.filter(tenant=tenant).values_list("state", flat=True)),
        Suppression.objects.filter(tenant=tenant).count(),
        Incident.objects.filter(tenant=tenant).count(),
    )


def template_paused() -> dict[str, Any]:
    return {"event": "PAUSED", "message_template_name": "offer", "message_template_language": "en_US"}


def status(broadcast: Broadcast) -> dict[str, Any]:
    return {
        "metadata": {"phone_number_id": broadcast.sender.address},
        "statuses": [{"id": "wamid.globex", "status": "failed", "errors": [{"code": 131048}]}],
    }


def stop(broadcast: Broadcast) -> dict[str, Any]:
    message = {"from": "491500000001", "id": "w", "type": "text", "text": {"body": "STOP"}}
    return {"metadata": {"phone_number_id": broadcast.sender.address}, "messages": [message]}


FORGED: list[tuple[str, str, str, Any]] = [
    ("restricts the account that it claims", GLOBEX, "account_update", lambda _: RESTRICTION),
    (
        "restricts an account inside the notice about its own",
        ACME,
        "account_update",
        lambda _: {"event": "VERIFIED", "waba_info": {"waba_id": GLOBEX}, **RESTRICTION},
    ),
    ("pauses a template", GLOBEX, "message_template_status_update", lambda _: template_paused()),
    (
        "rates a template",
        GLOBEX,
        "message_template_quality_update",
        lambda _: {"new_quality_score": "RED", **template_paused()},
    ),
    ("flags the number", GLOBEX, "phone_number_quality_update", lambda _: {"event": "FLAGGED"}),
    ("fails a message", GLOBEX, "messages", status),
    ("fails a message under its own account", ACME, "messages", status),
    ("says stop", GLOBEX, "messages", stop),
    ("says stop under its own account", ACME, "messages", stop),
]


@pytest.mark.parametrize(
    ("entry_id", "field", "value"), [case[1:] for case in FORGED], ids=[case[0] for case in FORGED]
)
def test_a_tenant_that_signs_by_itself_changes_nothing_of_anothers(
    sending: dict[str, Broadcast], globex: Tenant, entry_id: str, field: str, value: Any
) -> None:
    before = state_of(globex)
    body = notice(entry_id, field, value(sending["globex"]))
    post(body, ACMES_SECRET)
    assert state_of(globex) == before
    # the same from Meta itself is believed, so that the above is no accident
    if entry_id == GLOBEX:
        post(body, settings.META_APP_SECRET)
        assert state_of(globex) != before


def test_a_tenants_own_app_speaks_for_itself(sending: dict[str, Broadcast], acme: Tenant) -> None:
    post(notice(ACME, "account_update", RESTRICTION), ACMES_SECRET)
    assert state_of(acme)[0] == [("paused", "spam")]


def test_what_meta_says_of_an_account_reaches_only_who_proved_it(
    sending: dict[str, Broadcast], acme: Tenant, globex: Tenant
) -> None:
    before = state_of(acme)
    for field, value in (
        ("account_update", RESTRICTION),
        ("message_template_status_update", template_paused()),
        ("phone_number_quality_update", {"event": "FLAGGED"}),
    ):
        post(notice(GLOBEX, field, value), settings.META_APP_SECRET)
    assert state_of(acme) == before
    assert state_of(globex)[0] == [("paused", "spam")]


def test_an_account_that_nobody_proved_is_nobodys(
    sending: dict[str, Broadcast], acme: Tenant, globex: Tenant
) -> None:
    make_token(acme, config={"waba_id": NOBODYS})
    before = state_of(acme), state_of(globex)
    post(notice(NOBODYS, "account_update", RESTRICTION), settings.META_APP_SECRET)
    assert (state_of(acme), state_of(globex)) == before
