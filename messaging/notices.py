"""Apply WhatsApp's other notices: people's choices, and what Meta does with templates and accounts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog
from django.db import connection
from django.db.models import Q, QuerySet

from engine.watch.incidents import end_incident, open_incident
from messaging.actions import hold_broadcasts, suppress
from messaging.models import (
    Broadcast,
    BroadcastStep,
    Correspondent,
    Message,
    MessageTemplate,
    Sender,
    Suppression,
)
from messaging.rules import (
    MARKETING_STOP,
    START_WORDS,
    STOP_WORDS,
    TEMPLATE_STATE_BY_EVENT,
    WROTE_STOP,
    Reason,
)
from providers.whatsapp import (
    AccountUpdate,
    Event,
    InboundMessage,
    NumberQuality,
    TemplateQuality,
    TemplateStatus,
    Unknown,
    UserPreference,
)
from tenants.models import ProviderToken, VendorAccount

log = structlog.stdlib.get_logger("turnout.webhooks")

What = Literal["chose_at", "chose_marketing_at"]
CHANNEL: Final[Mapping[What, str]] = {
    "chose_at": Suppression.Channel.WHATSAPP,
    "chose_marketing_at": Suppression.Channel.WHATSAPP_MARKETING,
}
REASON: Final[Mapping[What, str]] = {"chose_at": WROTE_STOP, "chose_marketing_at": MARKETING_STOP}


Heard = InboundMessage | UserPreference


@dataclass(slots=True, frozen=True)
class Choice:
    """Somebody wants to get something no more, or again."""

    tenant_id: int
    phone: str
    what: What
    stops: bool
    at: datetime


def apply_notices(events: Sequence[Event], *, tenant_id: int | None = None) -> None:
    """Apply everything that is not a status. What we do not know is logged and passed over.

    `tenant_id` is the signer's, and bounds what may change; None: Meta itself signed, by the platform's app.
    What is said of an account reaches only who has proved it with Meta (`VendorAccount`).
    """
    if not events:
        return
    accounts = _accounts(events, tenant_id)
    _hear(
        [event for event in events if isinstance(event, InboundMessage)],
        [event for event in events if isinstance(event, UserPreference)],
        tenant_id,
    )
    for notice in sorted((e for e in events if isinstance(e, TemplateStatus)), key=lambda event: event.at):
        if account := accounts.get(notice.waba_id):
            _apply_template_status(account, notice)
    for rating in sorted((e for e in events if isinstance(e, TemplateQuality)), key=lambda event: event.at):
        if account := accounts.get(rating.waba_id):
            _templates(account, rating.name, rating.language).update(quality=rating.current[:16])
    for event in events:
        match event:
            case NumberQuality():
                if account := accounts.get(event.waba_id):
                    _senders(account, event.display_phone_number).update(quality=event.event[:16])
            case AccountUpdate() if event.restricts:
                if account := accounts.get(event.waba_id):
                    _restrict(account, event)
            case AccountUpdate() if event.reinstates:
                if account := accounts.get(event.waba_id):
                    _reinstate(account)
            case Unknown():
                log.info("webhook field passed over", field=event.field)
            case _:
                pass


def _accounts(events: Sequence[Event], signer_id: int | None) -> dict[str, VendorAccount]:
    """Find the proved accounts that notices are about, by their ids; of a tenant that signs, only its own."""
    about = {
        event.waba_id
        for event in events
        if isinstance(event, TemplateStatus | TemplateQuality | NumberQuality | AccountUpdate)
    } - {""}
    if not about:
        return {}
    proved = _proved(about)
    accounts = {
        waba_id: account
        for waba_id, account in proved.items()
        if signer_id is None or account.tenant_id == signer_id
    }
    for waba_id in sorted(about - accounts.keys()):
        log.warning("notice about an account that its signer has not proved", waba=waba_id, signer=signer_id)
    return accounts


def _proved(waba_ids: Collection[str]) -> dict[str, VendorAccount]:
    rows = VendorAccount.objects.filter(provider="whatsapp", account_id__in=waba_ids)
    return {account.account_id: account for account in rows}


# -- people


def _hear(
    messages: Sequence[InboundMessage], preferences: Sequence[UserPreference], signer_id: int | None
) -> None:
    """Apply what people wrote and chose, to the tenant whose number they wrote to.

    An account that nobody has proved is no reason to lose somebody's STOP: the number's sender hears it. One
    that is proved speaks to its tenant only, or, the platform's own, to whoever sends by that number.
    """
    heard: list[Heard] = [*messages, *preferences]
    if not heard:
        return
    senders = Sender.objects.filter(
        kind=Sender.Kind.WHATSAPP, address__in={event.phone_number_id for event in heard}
    )
    if signer_id is not None:
        senders = senders.filter(tenant_id=signer_id)
    tenants = dict(senders.values_list("address", "tenant_id"))
    accounts = _proved({event.waba_id for event in heard})
    known = []
    for event in heard:
        account = accounts.get(event.waba_id)
        owner_id = account.tenant_id if account else None
        if (to := tenants.get(event.phone_number_id)) and owner_id in (None, to):
            known.append(event)
    _remember({(tenants[e.phone_number_id], e.wa_id): e.user_id for e in known if e.wa_id and e.user_id})
    choosing = [(event, choice) for event in known if (choice := _choice(event))]
    phones = _phones(tenants, [event for event, _ in choosing])
    _apply_choices(
        Choice(tenants[event.phone_number_id], phone, what, stops, event.at)
        for event, (what, stops) in choosing
        for phone in phones[id(event)]
    )


def _choice(event: Heard) -> tuple[What, bool] | None:
    """Read what somebody chose: what it is about, and whether it stops. None when they chose nothing."""
    if isinstance(event, UserPreference):
        if event.category == "marketing_messages" and event.value in ("stop", "resume"):
            return "chose_marketing_at", event.value == "stop"
        return None
    word = event.text.strip().strip(".!").upper()
    if word in STOP_WORDS:
        return "chose_at", True
    return ("chose_at", False) if word in START_WORDS else None


def phones_of(wa_id: str) -> list[str]:
    """List the E.164 numbers that a wa_id may stand for.

    WhatsApp's ids of Mexican and Brazilian mobiles keep or drop a digit that the number has not or has.
    """
    phones = [f"+{wa_id}"]
    if wa_id.startswith("521") and len(wa_id) == 13:
        phones.append(f"+52{wa_id[3:]}")
    elif wa_id.startswith("55") and len(wa_id) == 12:
        phones.append(f"+55{wa_id[2:4]}9{wa_id[4:]}")
    return phones


def _phones(tenants: Mapping[str, int], events: Sequence[Heard]) -> dict[int, Collection[str]]:
    """Find the phones behind events, by `id(event)`: told, known by user id, or those replied from."""
    by_user_id = {
        (tenant_id, user_id): phone
        for tenant_id, user_id, phone in Correspondent.objects.filter(
            tenant_id__in=set(tenants.values()),
            user_id__in={event.user_id for event in events if not event.wa_id} - {""},
        ).values_list("tenant_id", "user_id", "phone")
    }
    replies = {event.reply_to for event in events if isinstance(event, InboundMessage)} - {""}
    sent_to = {
        (tenant_id, wamid): phone
        for tenant_id, wamid, phone in Message.objects.filter(
            tenant_id__in=set(tenants.values()), wamid__in=replies
        ).values_list("tenant_id", "wamid", "phone")
    }
    found: dict[int, Collection[str]] = {}
    for event in events:
        tenant_id = tenants[event.phone_number_id]
        phones = (
            set(phones_of(event.wa_id)) if event.wa_id else {by_user_id.get((tenant_id, event.user_id), "")}
        )
        if isinstance(event, InboundMessage):
            phones.add(sent_to.get((tenant_id, event.reply_to), ""))
        found[id(event)] = {phone for phone in phones if 0 < len(phone) <= 16}
    return found


def _remember(user_ids: Mapping[tuple[int, str], str]) -> None:
    """Keep the vendor's id beside the phone: later notices may name the id alone."""
    rows = sorted(
        (tenant_id, phones_of(wa_id)[-1], user_id)
        for (tenant_id, wa_id), user_id in user_ids.items()
        if len(wa_id) < 16 and len(user_id) <= 128
    )
    if not rows:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO messaging_correspondent AS c (tenant_id, phone, user_id)
            SELECT DISTINCT ON (1, 2) * FROM unnest(%s::bigint[], %s::text[], %s::text[])
            ON CONFLICT (tenant_id, phone) DO UPDATE SET user_id = excluded.user_id
             WHERE c.user_id <> excluded.user_id
            """,
            [list(column) for column in zip(*rows, strict=True)],
        )


def _apply_choices(choices: Iterable[Choice]) -> None:
    """Apply the latest choice of each; one that is older than what is on record changes nothing."""
    latest: dict[tuple[int, str, What], Choice] = {}
    for choice in choices:
        key = (choice.tenant_id, choice.phone, choice.what)
        known = latest.get(key)
        # of two in the same second, stopping wins
        if known is None or (choice.at, choice.stops) > (known.at, known.stops):
            latest[key] = choice
    for what in CHANNEL:
        mine = [choice for choice in latest.values() if choice.what == what]
        for choice in _newer(what, mine):
            if choice.stops:
                suppress(
                    tenant_id=choice.tenant_id,
                    phones=[choice.phone],
                    channel=CHANNEL[what],
                    reason=REASON[what],
                )
            else:
                Suppression.objects.filter(
                    tenant_id=choice.tenant_id, phone=choice.phone, channel=CHANNEL[what], reason=REASON[what]
                ).delete()


def _newer(what: What, choices: Sequence[Choice]) -> list[Choice]:
    """Put the choices on record, and return those that are the latest word of their person."""
    if not choices:
        return []
    by_person = {(choice.tenant_id, choice.phone): choice for choice in choices}
    people = sorted(by_person)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO messaging_correspondent AS c (tenant_id, phone, user_id, {what})
            SELECT tenant_id, phone, '', at
              FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[]) AS t (tenant_id, phone, at)
            ON CONFLICT (tenant_id, phone) DO UPDATE SET {what} = excluded.{what}
             WHERE c.{what} IS NULL OR c.{what} < excluded.{what}
            RETURNING tenant_id, phone
            """,
            [
                [tenant_id for tenant_id, _ in people],
                [phone for _, phone in people],
                [by_person[person].at for person in people],
            ],
        )
        return [by_person[tenant_id, phone] for tenant_id, phone in cursor.fetchall()]


# -- templates, numbers, accounts


def _apply_template_status(account: VendorAccount, event: TemplateStatus) -> None:
    """Set the state that Meta names, unless a later notice was applied; pause its steps if it must."""
    state = TEMPLATE_STATE_BY_EVENT.get(event.event.upper())
    if state is None:
        log.info("template notice changes nothing", template=event.name, event_name=event.event)
        return
    templates = _templates(account, event.name, event.language)
    newer = templates.filter(Q(state_at=None) | Q(state_at__lt=event.at))
    ids = list(newer.values_list("pk", flat=True))
    changed = {"state": state, "state_at": event.at}
    if event.template_id:
        changed["vendor_id"] = event.template_id[:64]
    MessageTemplate.objects.filter(pk__in=ids).update(**changed)
    if state == MessageTemplate.State.APPROVED:
        return
    steps = BroadcastStep.objects.filter(
        template_id__in=ids,
        state__in=[BroadcastStep.State.RUNNING, BroadcastStep.State.WAITING],
        broadcast__state__in=[Broadcast.State.RUNNING, Broadcast.State.PAUSED],
    )
    detail = f"Meta says that template “{event.name}” is {state}"
    if event.reason and event.reason.upper() != "NONE":
        detail += f": {event.reason}"
    for step_id in sorted(steps.values_list("pk", flat=True)):
        hold_broadcasts(step_id=step_id, reason=Reason.TEMPLATE, detail=detail)


def _restrict(account: VendorAccount, event: AccountUpdate) -> None:
    """Hold everything on an account that may not send. A late copy holds it again: rather that than go on."""
    why = ", ".join(filter(None, (event.event, *event.restrictions, event.ban_state, event.violation)))
    for token in _tokens(account):
        hold_broadcasts(token_id=token.pk, reason=Reason.SPAM, detail=f"Meta restricts the account: {why}")
        open_incident(
            tenant_id=token.tenant_id,
            kind="account_restricted",
            scope=f"token:{token.pk}",
            summary=f"Meta restricts the WhatsApp account of “{token.label}”: {why}"[:300],
            severity="critical",
        )


def _reinstate(account: VendorAccount) -> None:
    """End the incident of an account that may send again. Its broadcasts wait for a person to resume them."""
    for token in _tokens(account):
        end_incident(tenant_id=token.tenant_id, kind="account_restricted", scope=f"token:{token.pk}")


def _tokens(account: VendorAccount) -> QuerySet[ProviderToken]:
    """The tokens by which the account's tenant (or the platform) works for it."""
    return ProviderToken.objects.filter(
        provider=account.provider,
        tenant_id=account.tenant_id,
        config__waba_id__in=_spellings(account.account_id),
    )


def _spellings(waba_id: str) -> list[str | int]:
    """An id as it may stand in a token's settings: text, or a JSON number."""
    return [waba_id, int(waba_id)] if waba_id.isascii() and waba_id.isdigit() else [waba_id]


def _templates(account: VendorAccount, name: str, language: str) -> QuerySet[MessageTemplate]:
    templates = MessageTemplate.objects.filter(name=name, language=language)
    if account.tenant_id is not None:
        return templates.filter(tenant_id=account.tenant_id)
    users = Sender.objects.filter(provider_token__in=_tokens(account)).values("tenant_id")
    return templates.filter(tenant_id__in=users)


def _senders(account: VendorAccount, display_number: str) -> QuerySet[Sender]:
    """The senders meant by a number as people see it; the account's only one, if it has one."""
    senders = Sender.objects.filter(kind=Sender.Kind.WHATSAPP, provider_token__in=_tokens(account))
    digits = "".join(filter(str.isdigit, display_number))
    ids = [
        sender.pk
        for sender in senders
        if digits and "".join(filter(str.isdigit, sender.display_number)) == digits
    ]
    every = [sender.pk for sender in senders]
    return Sender.objects.filter(pk__in=ids or (every if len(every) == 1 else []))
