"""What every list promises: at most eight columns, the state first, and a cost that does not grow."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from messaging.models import Message
from tenants.admin_base import COUNT_CAP, CappedPaginator
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories
from tests.admin.test_isolation import OF_TENANT, REGISTERED, make, name_of


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_a_list_has_at_most_eight_columns_and_counts_no_further_than_needed(
    model: type[models.Model], sign_in: Any
) -> None:
    page = admin.site._registry[model]
    answer = sign_in().get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
    assert answer.status_code == 200
    columns = [name for name in answer.context["cl"].list_display if name != "action_checkbox"]
    assert len(columns) <= 8, columns
    assert not page.show_full_result_count
    assert issubclass(page.paginator, CappedPaginator)


@pytest.mark.parametrize("model", [m for m in OF_TENANT if hasattr(m, "State")], ids=name_of)
def test_the_first_filter_is_the_state(model: type[models.Model], sign_in: Any) -> None:
    answer = sign_in().get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
    assert answer.context["cl"].filter_specs[0].title == "state"


@pytest.mark.parametrize("who", ["staff", "member"])
@pytest.mark.parametrize("model", OF_TENANT, ids=name_of)
def test_a_list_asks_the_database_as_often_for_fifteen_rows_as_for_three(
    model: type[models.Model], who: str, sign_in: Any, acme: Tenant
) -> None:
    """A query per row would show; benchmarks/admin_pages.py holds the count at 1,000,000 rows as well."""
    client = sign_in() if who == "staff" else sign_in(acme, "owner")
    for _ in range(3):
        make(model, acme)
    few = queries(client, model)
    for _ in range(12):
        make(model, acme)
    assert queries(client, model) == few
    assert few <= 25


def queries(client: Client, model: type[models.Model]) -> int:
    address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return len(asked)


def test_a_count_stops_at_the_cap(everything: None, acme: Tenant) -> None:
    step = factories.BroadcastStepFactory.create(tenant=acme)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH people AS (
                INSERT INTO campaigns_contact
                  (tenant_id, external_id, phone, email, name, timezone, attributes, created_at, updated_at)
                SELECT %(tenant)s, 'many' || i, '', '', '', '', '{}', now(), now()
                  FROM generate_series(1, %(rows)s) i RETURNING id)
            SELECT count(*) FROM people
            """,
            {"tenant": acme.pk, "rows": COUNT_CAP + 100},
        )
    people = type(factories.ContactFactory.create(tenant=acme)).objects.all()
    assert CappedPaginator(people, 50).count == COUNT_CAP
    assert CappedPaginator(Message.objects.filter(step=step), 50).count == 0


@pytest.mark.parametrize("state", Message.State.values)
def test_messages_are_filtered_by_each_state(state: str, sign_in: Any, acme: Tenant, bolt: Tenant) -> None:
    """By way of the tallies or not: what they say is where to look, not what is there."""
    with all_tenants():
        step = factories.BroadcastStepFactory.create(tenant=acme)
        wanted = factories.MessageFactory.create(tenant=acme, step=step, state=state)
        for other in Message.State.values:
            if other != state:
                factories.MessageFactory.create(tenant=acme, step=step, state=other)
        factories.MessageFactory.create(tenant=bolt, state=state)
    address = reverse("admin:messaging_message_changelist")
    shown = sign_in(acme).get(address, {"state__exact": state}).context["cl"].result_list
    assert [message.pk for message in shown] == [wanted.pk]
    with all_tenants():
        Message.objects.filter(pk=wanted.pk).update(state="read" if state != "read" else "sent")
    assert not sign_in(acme).get(address, {"state__exact": state}).context["cl"].result_count
