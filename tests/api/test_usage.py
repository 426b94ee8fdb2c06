"""What is used of each allowance: all of it on the own tokens, the own share on the platform's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils.timezone import now
from rest_framework.test import APIClient

from engine.models import Allowance, AllowanceHold, AllowanceUse, Lane
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests.factories import AllowanceFactory, LaneFactory, ProviderTokenFactory

USAGE = "/api/v1/usage/"


def spend(allowance: Allowance, tenant: Tenant, spent: int, ago: timedelta = timedelta()) -> None:
    slot = (now() - ago).replace(second=0, microsecond=0)
    AllowanceUse.objects.create(allowance=allowance, slot=slot, tenant_id=tenant.pk, spent=spent)


def make_lane(owner: Tenant | None, hourly: int | None = None, **fields: Any) -> tuple[Lane, Any]:
    token = ProviderTokenFactory.create(tenant=owner, hourly_allowance=hourly)
    return LaneFactory.create(tenant=owner, token=token, **fields), token.allowances.first()


def rows_of(api: APIClient, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(USAGE + query)
    assert answer.status_code == 200, answer.content
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_usage_tells_what_is_left_and_when_it_resets(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        lane, calls = make_lane(acme, 200, name="limited")
        spend(calls, acme, 100, timedelta(minutes=20))
        spend(calls, acme, 30)
        spend(calls, acme, 7_000, timedelta(minutes=62))  # has left the window
        AllowanceHold.objects.create(allowance=calls, lane=lane, held=20)
        make_lane(acme, name="free")
    usage = {row["name"]: row for row in rows_of(api)}
    shown = usage["limited"]
    assert [shown[n] for n in ("allowance", "used", "remaining", "window")] == [200, 150, 50, "hour"]
    resets = (now() - timedelta(minutes=20)).replace(second=0, microsecond=0) + timedelta(minutes=61)
    assert shown["resets_at"] == resets.isoformat().replace("+00:00", "Z")
    assert shown["allowances"] == [
        {"unit": "calls", "window": "hour", "limit": 200, "used": 150, "remaining": 50}
        | {"resets_at": shown["resets_at"], "blocked_until": None}
    ]
    nothing = [usage["free"][n] for n in ("allowance", "used", "remaining", "resets_at", "allowances")]
    assert nothing == [None, 0, None, None, []]
    assert (usage["free"]["provider"], usage["free"]["breaker"]) == ("whatsapp", "closed")
    assert api.get(f"{USAGE}{lane.pk}/").json() == shown


@pytest.mark.parametrize(
    ("window", "counts", "gone", "word"),
    [
        ("hour", timedelta(minutes=59), timedelta(minutes=62), "hour"),
        ("day", timedelta(hours=24), timedelta(hours=25), "day"),
        ("calendar_day", timedelta(), timedelta(days=1), "day"),
        ("calendar_month", timedelta(), timedelta(days=31), "month"),
    ],
)
def test_each_window_counts_what_lies_in_it(
    acme: Tenant, api: APIClient, window: str, counts: timedelta, gone: timedelta, word: str
) -> None:
    with all_tenants():
        lane, _ = make_lane(acme)
        allowance = AllowanceFactory.create(tenant=acme, token=lane.token, window=window, limit=10)
        spend(allowance, acme, 4, counts)
        spend(allowance, acme, 8, gone)
    (shown,) = rows_of(api)[0]["allowances"]
    assert [shown[n] for n in ("unit", "window", "used", "remaining")] == ["usd_cents", word, 4, 6]
    assert shown["resets_at"]


def test_a_tenant_sees_its_share_of_the_platforms_lanes_and_nothing_else(
    acme: Tenant, bolt: Tenant, api: APIClient, bolts_api: APIClient
) -> None:
    with all_tenants():
        for hourly, ours, theirs in [(4321, 11, 500), (8765, 20, 600)]:
            lane, calls = make_lane(
                None, hourly, name=f"secret-account-{hourly}", last_error="of the account"
            )
            spend(calls, acme, ours)
            spend(calls, bolt, theirs)
            AllowanceHold.objects.create(allowance=calls, lane=lane, held=900)
        make_lane(acme, name="own")
    own, shared = rows_of(api)
    assert (own["name"], own["shared"]) == ("own", False)
    assert (shared["shared"], shared["used"], shared["queue"]) == (True, 31, "messaging")
    hidden = ("id", "token", "allowance", "remaining", "rate_per_second", "rate_now", "resets_at")
    assert [shared[name] for name in hidden] == [None] * len(hidden)
    assert [row["used"] for row in rows_of(bolts_api)] == [1100]
    text = api.get(USAGE).content.decode()
    assert not any(word in text for word in ("secret-account", "4321", "8765", "of the account", "1100"))
    assert api.get(f"{USAGE}{lane.pk}/").status_code == 404


def test_a_platform_lane_is_told_of_only_to_those_whom_it_serves(
    acme: Tenant, bolt: Tenant, api: APIClient, bolts_api: APIClient
) -> None:
    with all_tenants():
        lane, _ = make_lane(None, 10)
        lane.token.usable_by.set([acme])
    assert [row["shared"] for row in rows_of(api)] == [True]
    assert rows_of(bolts_api) == []
    assert rows_of(api, "?queue=tracking") == []
    assert len(rows_of(api, "?queue=messaging")) == 1
    assert rows_of(api, f"?token={lane.token_id}") == []


def test_shared_rows_stand_at_the_end_of_the_last_page(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        make_lane(None, 10)
        for _ in range(3):
            make_lane(acme)
    first = api.get(f"{USAGE}?page_size=2").json()
    last = api.get(first["next"]).json()
    assert [row["shared"] for row in first["results"] + last["results"]] == [False] * 3 + [True]
