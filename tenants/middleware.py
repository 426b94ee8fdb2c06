"""One request, one transaction, one scope. (The API half is on its way: see the owner of `tenants`.)"""

from collections.abc import Callable

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from tenants.scope import all_tenants


class TenantMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with transaction.atomic(), all_tenants():
            response = self.get_response(request)
            if response.status_code >= 500:
                transaction.set_rollback(True)
            return response
