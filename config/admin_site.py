"""The admin site: Unfold, with Turnout's own navigation."""

from unfold.sites import UnfoldAdminSite


class TurnoutAdminSite(UnfoldAdminSite):
    site_header = "Turnout"
    site_title = "Turnout"
