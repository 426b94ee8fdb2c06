"""How the admin looks: Unfold's settings. What stands in its side bar is in `config.navigation`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.templatetags.static import static


def asset(name: str) -> Any:
    """Give Unfold a static file's address; asked for at each request, once the storage is known."""
    return lambda request: static(f"turnout/{name}")


def environment(request: HttpRequest) -> list[str]:
    """Say where one is: nobody should pause the wrong broadcast because two browser tabs look alike."""
    return ["Demo", "info"] if settings.DEBUG else ["Production", "danger"]


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Turnout",
    "SITE_HEADER": "Turnout",
    "SITE_SUBHEADER": "config.navigation.whose_rows",
    "SITE_URL": None,
    "SITE_ICON": asset("mark.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": asset("mark.svg")}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": False,
    "ENVIRONMENT": "config.unfold.environment",
    "DASHBOARD_CALLBACK": "config.dashboard.index_context",
    "LOGIN": {"image": asset("login.svg")},
    "STYLES": [asset("turnout.css")],
    "SCRIPTS": [asset("turnout.js")],
    "BORDER_RADIUS": "8px",
    "COLORS": {
        "primary": {  # teal
            "50": "oklch(98.4% .014 180.7)",
            "100": "oklch(95.3% .051 180.8)",
            "200": "oklch(91% .096 180.4)",
            "300": "oklch(85.5% .138 181)",
            "400": "oklch(77.7% .152 181.9)",
            "500": "oklch(70.4% .14 182.5)",
            "600": "oklch(51.1% .096 186.4)",
            "700": "oklch(46% .084 187)",
            "800": "oklch(43.7% .078 188.2)",
            "900": "oklch(38.6% .063 188.4)",
            "950": "oklch(27.7% .046 192.5)",
        },
    },
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": "config.navigation.sidebar",
    },
}
