"""Choose which tenant to act for in the admin, kept in the session."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from tenants.middleware import SESSION_KEY, STAFF
from tenants.models import Tenant


def tenants_to_choose(request: HttpRequest) -> list[Tenant]:
    """Return the tenants that the person may choose among: his own, or all of them for platform staff."""
    if getattr(request, "tenant_role", None) == STAFF:
        return list(Tenant.objects.all())
    return [membership.tenant for membership in getattr(request, "memberships", [])]


@login_required
@require_POST
def choose_tenant(request: HttpRequest) -> HttpResponse:
    """Keep `tenant` (an id; empty: all of them, for platform staff) and go back to `next`.

    Nothing is granted here: the middleware ignores a tenant that the person does not belong to.
    """
    chosen = request.POST.get("tenant", "")
    if chosen.isdecimal():
        request.session[SESSION_KEY] = int(chosen)
    else:
        request.session.pop(SESSION_KEY, None)
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        back = reverse("admin:index")
    return redirect(back)
