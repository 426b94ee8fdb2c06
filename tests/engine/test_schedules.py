"""One table of schedules."""

from __future__ import annotations

import pytest
from django.utils import timezone
from django_q.models import Schedule

from engine.clock.schedules import schedules, sync_schedules
from engine.clock.tasks import beat
from engine.models import Heartbeat

pytestmark = pytest.mark.django_db


def test_schedules_become_those_of_the_table_and_again_changes_nothing() -> None:
    Schedule.objects.create(name="left over", func="os.system", args="('true',)")
    first = sync_schedules()
    names = {entry.name for entry in schedules()}
    assert first == {"added": len(names), "changed": 0, "removed": 1}
    assert set(Schedule.objects.values_list("name", flat=True)) == names
    assert sync_schedules() == {"added": 0, "changed": 0, "removed": 0}


def test_a_schedule_that_somebody_changed_is_mended() -> None:
    sync_schedules()
    Schedule.objects.filter(name="watch").update(func="os.system", args="('true',)")
    assert sync_schedules()["changed"] == 1
    assert Schedule.objects.get(name="watch").func == "engine.clock.tasks.watch"


def test_every_queue_has_a_tick_and_a_heartbeat_on_its_own_cluster() -> None:
    found = {(entry.name, entry.cluster) for entry in schedules()}
    assert {
        ("tick messaging", "messaging"),
        ("beat messaging", "messaging"),
        ("tick events", "events"),
    } <= found


def test_a_heartbeat_is_one_row_a_cluster() -> None:
    beat("messaging")
    first = Heartbeat.objects.get(cluster="messaging").beat_at
    beat("messaging")
    assert Heartbeat.objects.get(cluster="messaging").beat_at >= first
    assert first <= timezone.now()
