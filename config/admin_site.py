"""The admin site: Unfold, with Turnout's own front page, side bar and choice of tenant."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import URLPattern, path
from unfold.sites import UnfoldAdminSite


class TurnoutAdminSite(UnfoldAdminSite):
    site_header = "Turnout"
    site_title = "Turnout"
    index_title = "Dashboard"

    def extra_urls(self) -> list[URLPattern]:
        from config.dashboard import live_view

        return [path("live/", self.admin_view(live_view), name="live")]

    def extra_context(self, context: dict[str, Any], request: HttpRequest) -> dict[str, Any]:
        from config.navigation import tenant_choices

        return {**context, "tenant_choices": tenant_choices(request)}
