"""Views that say what the middleware made of a request, at addresses that it treats differently."""

from __future__ import annotations

import json
from collections.abc import Iterator

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path

from campaigns.models import Campaign
from config.urls import urlpatterns as real
from tenants.middleware import no_transaction
from tenants.scope import NoTenantScope, current_scope
from tests.factories import TenantFactory


def probe(request: HttpRequest) -> HttpResponse:
    try:
        scope: int | str | None = current_scope()
    except NoTenantScope:
        scope = None
    seen = sorted(Campaign._base_manager.values_list("name", flat=True))
    tenant = getattr(request, "tenant", None)
    return JsonResponse(
        {
            "scope": scope,
            "seen": seen,
            "atomic": len(connection.savepoint_ids),
            "tenant": tenant and tenant.pk,
            "role": getattr(request, "tenant_role", None),
        }
    )


def write_and_fail(request: HttpRequest) -> HttpResponse:
    TenantFactory(slug="written-by-a-failure")
    return HttpResponse(status=int(request.GET["status"]))


def write_and_raise(request: HttpRequest) -> HttpResponse:
    TenantFactory(slug="written-by-a-failure")
    raise RuntimeError("broken")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def names() -> Iterator[bytes]:
        for campaign in Campaign.objects.order_by("pk"):
            yield json.dumps([campaign.name, current_scope()]).encode() + b"\n"

    return StreamingHttpResponse(names())


@no_transaction
def alone(request: HttpRequest) -> HttpResponse:
    return probe(request)


probes = [
    path("probe/", probe),
    path("fail/", write_and_fail),
    path("raise/", write_and_raise),
    path("stream/", stream),
    path("alone/", alone),
]
urlpatterns = [
    path("api/v1/", include(probes)),
    path("admin/", include(probes)),
    path("health/", include(probes)),
    path("webhooks/", include(probes)),
    *real,
]
