"""When failures pause a broadcast or a step: the rules, their windows, and what a resume means."""

from __future__ import annotations

import pytest
from django.utils.timezone import now

from messaging.actions import (
    launch_broadcast,
    refuse_after_failures,
    resume_broadcast,
    tend_broadcasts,
)
from messaging.models import Broadcast
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle, step_states


@pytest.fixture
def broadcast(acme: Tenant) -> Broadcast:
    make_contacts(acme, 800)
    made = make_broadcast(acme, make_template(acme), make_template(acme), shares=(75, 25))
    launch_broadcast(broadcast_id=made.pk)
    return made


def decide(broadcast: Broadcast, passed: int, *failures: tuple[str, int]) -> None:
    settle(broadcast, "accepted", passed)
    for code, n in failures:
        settle(broadcast, "failed", n, failed_at=now(), error_code=code)


Case = tuple[str, int, list[tuple[str, int]], tuple[str, str], str]
CASES: list[Case] = [
    ("too few to judge", 10, [("131026", 39)], ("running", ""), "running"),
    ("four in five is enough", 40, [("131026", 10)], ("running", ""), "running"),
    ("fewer than four in five", 39, [("131026", 11)], ("paused", "failures"), "running"),
    ("twenty content failures and nothing else", 0, [("132012", 20)], ("running", ""), "paused"),
    ("nineteen of them", 0, [("132012", 19)], ("running", ""), "running"),
    ("content and one that passed", 1, [("132012", 20)], ("running", ""), "running"),
    ("twenty unknown numbers are no fault of the text", 0, [("131026", 20)], ("running", ""), "running"),
    ("Meta holds back one in ten", 45, [("131049", 5)], ("running", ""), "running"),
    ("Meta holds back more", 44, [("131049", 5), ("130472", 1)], ("paused", "failures"), "running"),
]


@pytest.mark.parametrize(
    ("passed", "failures", "state", "step"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_rules(
    broadcast: Broadcast,
    passed: int,
    failures: list[tuple[str, int]],
    state: tuple[str, str],
    step: str,
) -> None:
    decide(broadcast, passed, *failures)
    stopped = refuse_after_failures()
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.pause_reason) == state
    assert step_states(broadcast)[0] == step
    assert stopped == int(state != ("running", "") or step == "paused")
    if stopped:
        assert "%" in (broadcast.pause_detail or broadcast.steps.first().pause_detail)


def test_a_long_good_run_does_not_hide_that_it_goes_wrong_now(broadcast: Broadcast) -> None:
    decide(broadcast, 300)
    assert refuse_after_failures() == 0
    decide(broadcast, 0, ("131026", 50))
    assert refuse_after_failures() == 1


def test_a_share_that_falls_is_no_reason_to_pause(broadcast: Broadcast) -> None:
    step = broadcast.steps.first()
    step.watch = {"passed": 0, "failed": 0, "shares": {"ecosystem": 0.18}}
    step.save()
    decide(broadcast, 51, ("131049", 9))
    assert refuse_after_failures() == 0


def test_after_a_resume_only_what_comes_then_counts(broadcast: Broadcast) -> None:
    decide(broadcast, 0, ("131026", 60))
    tend_broadcasts()
    broadcast.refresh_from_db()
    assert broadcast.pause_reason == "failures"
    assert "131026 Undeliverable" in broadcast.pause_detail
    resume_broadcast(broadcast_id=broadcast.pk)
    assert refuse_after_failures() == 0
    decide(broadcast, 50)
    assert refuse_after_failures() == 0
    decide(broadcast, 20, ("131026", 30))
    assert refuse_after_failures() == 1


def test_an_accepted_message_that_fails_later_is_one_decision(broadcast: Broadcast) -> None:
    decide(broadcast, 60)
    refuse_after_failures()
    broadcast.messages.filter(state="accepted").update(state="failed", failed_at=now(), error_code="131026")
    assert refuse_after_failures() == 1
    broadcast.refresh_from_db()
    assert broadcast.pause_detail.startswith("100% of the last 60 messages")


def test_steps_that_are_not_named_are_not_judged(broadcast: Broadcast) -> None:
    decide(broadcast, 0, ("131026", 60))
    assert refuse_after_failures(step_ids=[]) == 0
    assert refuse_after_failures(step_ids=[broadcast.steps.last().pk]) == 0
    assert refuse_after_failures(step_ids={broadcast.steps.first().pk}) == 1
