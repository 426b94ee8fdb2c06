"""Open what a lane's calls need: the token's secret, the vendor's address, the API's version."""

from __future__ import annotations

from functools import lru_cache

import orjson
from django.conf import settings

from engine.processor.contract import LaneFacts
from engine.store.leases import LaneRow
from providers.base import ProviderError
from providers.registry import find_vendor
from tenants.secrets import decrypt


def open_lane(row: LaneRow) -> LaneFacts:
    """Say what a plan may know of the lane.

    Raises SecretUnreadable when no key opens the token's secret, and ProviderError when nobody here speaks
    to its vendor.
    """
    vendor = find_vendor(row.provider)
    config = orjson.loads(row.config)
    if not isinstance(config, dict):
        raise ProviderError("the token's config is no JSON object")
    return LaneFacts(
        id=row.id,
        tenant_id=row.tenant_id,
        token_id=row.token_id,
        name=row.name,
        provider=row.provider,
        base_url=getattr(settings, vendor.url_settings[0]),
        version=str(config.get("version") or vendor.default_version),
        secret=_opened(row.sealed_secret),
        config=config,
    )


@lru_cache(maxsize=2048)
def _opened(sealed: str) -> str:
    """Open a secret once per process: 40 µs that every look would pay for every lane."""
    return decrypt(sealed)
