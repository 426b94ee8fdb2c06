"""What an operator does in the browser: sign in, launch, watch it move, pause, resume, see it done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from messaging.models import Broadcast, Message
from sandbox import Running
from tenants.models import Membership, Tenant
from tenants.scope import all_tenants
from tests import factories

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PASSWORD = "a-password-of-tests"
PEOPLE = 400
RATE = 50


@pytest.fixture
def acme(transactional_db: None) -> Tenant:
    return factories.two_tenants()[0]


@pytest.fixture
def broadcast(acme: Tenant) -> Broadcast:
    with all_tenants():
        factories.ContactFactory.create_batch(
            PEOPLE, tenant=acme, phone=factories.Sequence(lambda n: f"+4915{110_000_000 + n}")
        )
        sender = factories.SenderFactory.create(tenant=acme, rate_per_second=RATE, lane__rate_per_second=RATE)
        made: Broadcast = factories.BroadcastFactory.create(tenant=acme, sender=sender, name="Autumn tasting")
        factories.BroadcastStepFactory.create(tenant=acme, broadcast=made)
    return made


def sign_in(page: Page, address: str, tenant: Tenant, role: str, password: str = PASSWORD) -> None:
    with all_tenants():
        person: Membership = factories.MembershipFactory.create(tenant=tenant, role=role)
    page.goto(f"{address}/admin/")
    page.get_by_label("Username").fill(person.user.username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def dealt_with(page: Page) -> int:
    return int(page.locator("#broadcast").get_attribute("data-done") or 0)


def wait_until_more_than(page: Page, number: int) -> None:
    page.wait_for_function(
        "least => Number(document.getElementById('broadcast').dataset.done) > least", arg=number
    )


def see_polled(page: Page) -> None:
    """Wait for the page's next answer from the server."""
    with page.expect_response(lambda response: response.url.endswith("/progress/")) as polled:
        pass
    assert polled.value.ok


def test_a_broadcast_is_launched_watched_paused_resumed_and_done(
    page: Page,
    live_server: Any,
    acme: Tenant,
    broadcast: Broadcast,
    vendor: Running,
    start: Callable[..., Any],
) -> None:
    start("process", "messaging", "--seconds", "90")
    sign_in(page, live_server.url, acme, "operator")
    expect(page.get_by_text("Running broadcasts")).to_be_visible()

    page.goto(f"{live_server.url}/admin/messaging/broadcast/{broadcast.pk}/change/")
    page.get_by_role("button", name="Launch").click()
    page.locator("dialog").get_by_role("button", name="Launch").click()
    expect(page.get_by_text(f"{PEOPLE} messages")).to_be_visible()
    wait_until_more_than(page, 0)
    seen = dealt_with(page)
    wait_until_more_than(page, seen)

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("is paused")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_text("stands still")).to_be_visible()
    in_hand = page.locator("#broadcast .t-fill-sending")
    expect(in_hand).to_have_count(0)  # what was on its way has arrived
    standing, asked = dealt_with(page), vendor.sandbox.stats()["total"]["arrivals"]
    assert 0 < standing < PEOPLE
    for _ in range(3):
        see_polled(page)
    assert (dealt_with(page), vendor.sandbox.stats()["total"]["arrivals"]) == (standing, asked)

    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("goes on")).to_be_visible()
    expect(page.locator("#broadcast").get_by_text("completed").first).to_be_visible(timeout=30_000)
    assert dealt_with(page) == PEOPLE
    with all_tenants():
        assert Message.objects.filter(state="accepted").count() == PEOPLE
        assert Broadcast.objects.get().state == "completed"


def test_the_front_page_moves_by_itself(
    page: Page, live_server: Any, acme: Tenant, broadcast: Broadcast
) -> None:
    sign_in(page, live_server.url, acme, "viewer")
    expect(page.get_by_text("Nothing is going out")).to_be_visible()
    with all_tenants():
        Broadcast.objects.update(state="running", total=10)
    expect(page.get_by_role("link", name="Autumn tasting")).to_be_visible()
    with all_tenants():
        factories.IncidentFactory.create(tenant=acme, summary="Something to look at")
    expect(page.get_by_role("link", name="Something to look at")).to_be_visible()


def test_a_wrong_password_does_not_open_the_door(page: Page, live_server: Any, acme: Tenant) -> None:
    sign_in(page, live_server.url, acme, "owner", password="wrong")
    expect(page.get_by_text("Please enter the correct username and password")).to_be_visible()
    page.goto(f"{live_server.url}/admin/messaging/broadcast/")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_a_viewer_watches_and_has_no_button(
    page: Page, live_server: Any, acme: Tenant, broadcast: Broadcast
) -> None:
    with all_tenants():
        step = broadcast.steps.get()
        factories.MessageFactory.create_batch(5, tenant=acme, step=step, state="delivered")
        Broadcast.objects.update(state="running", launched_at=broadcast.created_at, total=5)
    sign_in(page, live_server.url, acme, "viewer")
    page.goto(f"{live_server.url}/admin/messaging/broadcast/{broadcast.pk}/change/")
    expect(page.get_by_text("Taken by the vendor")).to_be_visible()
    for name in ("Pause", "Resume", "Cancel", "Launch", "Retry failed", "Save"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)


def test_an_operator_writes_a_broadcast_down_and_preflight_counts(
    page: Page, live_server: Any, acme: Tenant, broadcast: Broadcast
) -> None:
    with all_tenants():
        factories.SegmentFactory.create(tenant=acme, name="Regulars")
    sign_in(page, live_server.url, acme, "operator")
    page.goto(f"{live_server.url}/admin/messaging/broadcast/add/")
    page.locator("#id_name").fill("Second helping")
    page.locator("#id_campaign").select_option(index=1)
    page.locator("#id_sender").select_option(index=1)
    expect(page.locator("#id_segment")).to_be_hidden()
    page.locator("#id_reach").select_option("segment")
    expect(page.locator("#id_segment")).to_be_visible()
    page.locator("#id_reach").select_option("all")
    page.locator("#id_steps-0-share").fill("100")
    page.locator(".field-template .select2-selection").first.click()
    page.locator(".select2-results__option").filter(has_text="template_").first.click()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("is written down")).to_be_visible()
    page.get_by_role("button", name="Preflight").click()
    expect(page.get_by_text("Will get it")).to_be_visible()
    expect(page.locator(".t-stats").get_by_text(str(PEOPLE)).first).to_be_visible()
