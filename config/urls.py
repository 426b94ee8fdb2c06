"""Every address that Turnout answers."""

from django.contrib import admin
from django.urls import include, path

from config.health import live_view
from config.webhooks import webhook_view
from tenants.switch import choose_tenant

urlpatterns = [
    path("admin/tenant/", choose_tenant, name="choose_tenant"),
    path("admin/", admin.site.urls),
    path("api/", include("config.api")),
    path("health/live", live_view, name="live"),
    path("webhooks/<path:path>", webhook_view, name="webhook"),
]
