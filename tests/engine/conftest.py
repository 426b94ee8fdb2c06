"""Real tables for the three small queues, a vendor on loopback, and lanes to reach it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from engine.models import Lane, QueueItem, Run
from engine.processor import Processor
from engine.run.runtime import runtime
from tenants.models import ProviderToken, Tenant
from tenants.scope import ALL_ROWS_ROLE, all_tenants
from tests.engine.queues import MODELS
from tests.engine.vendor import Vendor, serve


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with serve() as served:
        yield served


@pytest.fixture
def queues(transactional_db: None, settings: Any) -> Iterator[None]:
    """The tables of the small queues, with the due index that every queue has."""
    settings.LEASE_SECONDS = 5.0
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
            table = model._meta.db_table
            editor.execute(f"GRANT ALL ON {table} TO {ALL_ROWS_ROLE}")
            if issubclass(model, QueueItem):
                editor.execute(
                    f"CREATE INDEX ON {table} (lane_id, tenant_id, due_at, id) WHERE state = 'queued'"
                )
    with all_tenants():
        yield
    runtime.close()
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.delete_model(model)


MakeLane = Callable[..., Lane]


@pytest.fixture
def make_lane(queues: None) -> MakeLane:
    """Make a lane of a queue, of a tenant of its own unless one is given."""

    def make(processor: Processor | type[Processor], name: str = "lane", **fields: Any) -> Lane:
        tenant = fields.pop("tenant", None)
        if tenant is None:
            tenant = Tenant.objects.create(name=name, slug=f"{name}-{Tenant.objects.count()}")
        token = fields.pop("token", None)
        if token is None:
            token = ProviderToken(tenant=tenant, provider="whatsapp", label=name)
            token.secret = "secret-of-" + name
            token.hourly_allowance = fields.pop("hourly_allowance", None)
            token.save()
        return Lane.objects.create(
            tenant=tenant, token=token, queue=processor.queue, processor=processor.name, name=name, **fields
        )

    return make


@pytest.fixture
def latest_run(queues: None) -> Callable[[], Run]:
    return lambda: Run.objects.latest("id")
