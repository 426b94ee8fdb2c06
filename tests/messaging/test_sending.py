"""Broadcasts go out through the real path: engine, HTTP, a vendor's stand-in, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest

from campaigns.actions import pause_campaign, resume_campaign
from engine.models import Incident, Lane
from engine.processor import Counts as Report
from engine.run.runner import Runner
from engine.run.runtime import runtime
from messaging.actions import launch_broadcast, pause_broadcast, resume_broadcast, suppress, update_template
from messaging.models import Broadcast, Message, Suppression
from messaging.processor import MessageProcessor
from providers import whatsapp
from providers.base import Call
from sandbox.config import SandboxConfig
from sandbox.server import Running, running
from tenants.scope import all_tenants
from tests import factories

QUICK = (timedelta(milliseconds=50), timedelta(milliseconds=100))


@pytest.fixture
def sandbox(settings: Any) -> Iterator[Running]:
    with running(SandboxConfig(latency_ms=(5.0, 0.0), rate=0.0)) as served:
        settings.WHATSAPP_URL = served.url
        yield served


@pytest.fixture
def scope(transactional_db: None) -> Iterator[None]:
    with all_tenants():
        yield
    runtime.close()


Make = Callable[..., Broadcast]


@pytest.fixture
def launched(scope: None, sandbox: Running) -> Make:
    """A broadcast to `n` people in as many steps as shares, launched."""

    def make(n: int = 20, shares: tuple[int, ...] = (100,)) -> Broadcast:
        tenant = factories.TenantFactory()
        factories.ContactFactory.create_batch(n, tenant=tenant)
        sender: Any = factories.SenderFactory(tenant=tenant, rate_per_second=500)
        Lane.objects.filter(pk=sender.lane_id).update(rate_per_second=500)
        broadcast: Any = factories.BroadcastFactory(tenant=tenant, sender=sender, audience={"all": True})
        for position, share in enumerate(shares, start=1):
            template = factories.MessageTemplateFactory(tenant=tenant)
            factories.BroadcastStepFactory(
                tenant=tenant, broadcast=broadcast, template=template, position=position, share=share
            )
        launch_broadcast(broadcast_id=broadcast.pk)
        broadcast.refresh_from_db()
        return cast("Broadcast", broadcast)

    return make


class QuickProcessor(MessageProcessor):
    """The same with short waits between attempts."""

    retry_delays = QUICK


def send(seconds: float = 20.0) -> Report:
    return Runner("messaging", [QuickProcessor()]).run(seconds=seconds, until_empty=True)


def configure(sandbox: Running, changes: dict[str, Any]) -> None:
    httpx.post(f"{sandbox.url}/_sandbox/config", json=changes).raise_for_status()


def states(broadcast: Broadcast) -> dict[str, int]:
    counted: dict[str, int] = {}
    for state in Message.objects.filter(broadcast=broadcast).values_list("state", flat=True):
        counted[state] = counted.get(state, 0) + 1
    return counted


def test_steps_go_out_one_after_the_other_and_the_broadcast_completes(
    launched: Make, sandbox: Running
) -> None:
    broadcast = launched(n=100, shares=(70, 30))

    report = send()

    broadcast.refresh_from_db()
    assert (report.done, broadcast.state) == (100, "completed")
    assert states(broadcast) == {"accepted": 100}
    assert set(broadcast.steps.values_list("state", flat=True)) == {"done"}
    first, second = broadcast.steps.order_by("position")
    assert (first.messages.count(), second.messages.count()) == (70, 30)
    order = list(Message.objects.order_by("accepted_at").values_list("step_id", flat=True))
    assert order == [first.pk] * 70 + [second.pk] * 30
    assert Message.objects.exclude(wamid="").count() == 100


def test_the_waits_between_attempts_are_five_and_ten_seconds_and_a_little_more() -> None:
    processor = MessageProcessor()
    for used, seconds in ((1, 5), (2, 10)):
        delay = processor.retry_delay(used)
        assert delay is not None
        assert seconds <= delay.total_seconds() <= seconds * 1.2
    assert processor.retry_delay(3) is None


def test_a_transient_error_is_tried_twice_more_and_then_has_failed(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=3)
    configure(sandbox, {"fail_graph": 1.0})

    report = send()

    assert (report.retried, report.failed) == (6, 3)
    assert set(Message.objects.values_list("state", "attempts")) == {("failed", 3)}
    broadcast.refresh_from_db()
    assert broadcast.state == "completed"


@pytest.mark.parametrize("fault", ["fail_bare", "reset_before", "reset_after", "unreadable"])
def test_what_nobody_can_know_is_in_doubt_and_never_sent_again(
    launched: Make, sandbox: Running, fault: str
) -> None:
    broadcast = launched(n=5)
    configure(sandbox, {fault: 1.0})
    assert send().in_doubt == 5
    configure(sandbox, {fault: 0.0})

    assert send().claimed == 0

    assert states(broadcast) == {"in_doubt": 5}
    assert sandbox.sandbox.stats()["total"]["arrivals"] == 5


HOLDS = [
    ("131048", "spam", "lane"),
    ("368", "spam", "lane"),
    ("190", "token", "token"),
    ("131042", "billing", "token"),
]


@pytest.mark.parametrize(("code", "reason", "what"), HOLDS, ids=[code for code, *_ in HOLDS])
def test_a_restriction_pauses_every_broadcast_on_the_number(
    launched: Make, sandbox: Running, code: str, reason: str, what: str
) -> None:
    broadcast = launched(n=60)
    other = launched(n=5)
    configure(sandbox, {"errors": {code: 1.0}})
    report = Runner("messaging", [QuickProcessor()]).run(seconds=3, until_empty=True)

    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.pause_reason) == ("paused", reason)
    assert states(broadcast) == {"queued": 60}, "nobody is lost and no attempt is used up"
    assert set(Message.objects.values_list("attempts", flat=True)) == {0}
    assert report.held >= 2
    lane = Lane.objects.get(pk=broadcast.sender.lane_id)
    assert lane.pause_reason == reason
    assert Incident.objects.filter(ended_at=None, tenant=broadcast.tenant).exists()
    configure(sandbox, {"errors": {}})
    assert send().done == 0, "nothing held resumes by itself"
    other.refresh_from_db()
    assert other.state == "paused"


def test_a_paused_template_stops_its_step_and_the_next_goes_on(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=40, shares=(50, 50))
    first, second = broadcast.steps.order_by("position")
    configure(sandbox, {"paused_templates": [first.template.name]})

    send()

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == ("paused", "done")
    assert states(broadcast) == {"queued": 20, "accepted": 20}
    lane = Lane.objects.get(pk=broadcast.sender.lane_id)
    assert lane.paused_at is None


def test_whoever_opted_out_since_the_launch_is_left_out(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=10)
    phones = list(Message.objects.values_list("phone", flat=True)[:3])
    suppress(
        tenant_id=broadcast.tenant_id, phones=phones, channel=Suppression.Channel.WHATSAPP, reason="STOP"
    )

    report = send()

    assert report.done == 7
    assert states(broadcast) == {"accepted": 7, "suppressed": 3}
    accepted = httpx.get(f"{sandbox.url}/_sandbox/accepted").json()
    sent_to = {f"+{message['to']}" for message in accepted}
    assert len(sent_to) == 7
    assert not sent_to & set(phones)
    broadcast.refresh_from_db()
    assert broadcast.state == "completed"


def test_an_opt_out_that_the_vendor_tells_is_remembered(launched: Make, sandbox: Running) -> None:
    launched(n=2)
    configure(sandbox, {"errors": {"131050": 1.0}})
    send()
    assert Suppression.objects.filter(channel=Suppression.Channel.WHATSAPP_MARKETING).count() == 2


def test_a_paused_broadcast_sends_nothing_until_it_is_resumed(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=10)
    pause_broadcast(broadcast_id=broadcast.pk)
    assert send().claimed == 0
    resume_broadcast(broadcast_id=broadcast.pk)
    assert send().done == 10


def test_an_app_whose_calls_are_used_up_rests(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=30)
    token = broadcast.sender.provider_token.secret
    configure(sandbox, {"spent_tokens": [token]})

    report = Runner("messaging", [QuickProcessor()]).run(seconds=3, until_empty=True)

    lane = Lane.objects.get(pk=broadcast.sender.lane_id)
    assert lane.breaker == "open"
    assert report.throttled >= 1
    assert states(broadcast) == {"queued": 30}
    assert set(Message.objects.values_list("attempts", flat=True)) == {0}


def test_what_was_frozen_is_sent_and_checked_whatever_the_template_says_now(
    launched: Make, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marketing turned into utility in the middle of a run sent to people who had opted out of marketing."""
    broadcast = launched(n=6)
    template = broadcast.steps.get().template
    phones = sorted(Message.objects.values_list("phone", flat=True))
    header = [{"type": "header", "parameters": [{"type": "text", "text": "changed"}]}]
    update_template(template_id=template.pk, category="utility", components=header)
    suppress(
        tenant_id=broadcast.tenant_id,
        phones=phones[:2],
        channel=Suppression.Channel.WHATSAPP_MARKETING,
        reason="opted out of marketing",
    )

    sent: list[list[Any]] = []
    real = whatsapp.send_template

    def spied(**given: Any) -> Call:
        sent.append(list(given["components"]))
        return real(**given)

    monkeypatch.setattr(whatsapp, "send_template", spied)
    send()

    assert states(broadcast) == {"accepted": 4, "suppressed": 2}
    assert [[component["type"] for component in components] for components in sent] == [["body"]] * 4


def test_a_paused_campaign_sends_nothing_until_it_is_resumed(launched: Make, sandbox: Running) -> None:
    broadcast = launched(n=10)
    pause_campaign(campaign_id=broadcast.campaign_id)
    assert send(2.0).claimed == 0
    resume_campaign(campaign_id=broadcast.campaign_id)
    assert send().done == 10
