"""Webhooks that were given up on are applied again when a person says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.timezone import now

from engine.actions import retry_receipts
from engine.inbox import receipts
from engine.models import Receipt
from engine.processor.contract import get_queue

pytestmark = pytest.mark.django_db


def run_events() -> None:
    get_queue("events").run(seconds=20, until_empty=True)


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> Receipt:
    """A webhook that nobody could apply, as often as it is tried."""
    monkeypatch.setitem(receipts._appliers, "strange", lambda bodies: 1 // 0)
    receipt = receipts.store("strange", b"{}")
    for _ in range(receipts.MOST_ATTEMPTS):
        Receipt.objects.update(due_at=now())
        run_events()
    return receipt


def test_one_given_up_on_is_applied_once_the_cause_is_mended(
    given_up: Receipt, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[bytes] = []

    def apply(received: Sequence[receipts.Received]) -> int:
        applied.extend(one.body for one in received)
        return len(received)

    monkeypatch.setitem(receipts._appliers, "strange", apply)
    run_events()
    assert applied == [], "it was given up on"
    assert retry_receipts(receipt_ids=[given_up.pk]) == 1
    run_events()
    assert applied == [b"{}"]
    given_up.refresh_from_db()
    assert given_up.applied_at is not None
    assert retry_receipts(receipt_ids=[given_up.pk]) == 0, "what is applied is left alone"


def test_staff_do_it_from_the_admin(given_up: Receipt, client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", password="x"))
    chosen = {"action": "apply_again", "_selected_action": [given_up.pk]}
    answer = client.post("/admin/engine/receipt/", chosen, follow=True)
    assert "1 webhooks are applied again." in answer.content.decode()
    given_up.refresh_from_db()
    assert given_up.attempts == 0
