"""What tenants' systems see of the engine: provider tokens, and how much of each allowance is used."""

from engine.api.tokens import ProviderTokenSerializer, ProviderTokenViewSet, StandingSerializer
from engine.api.usage import UsageSerializer, UsageViewSet

__all__ = [
    "ProviderTokenSerializer",
    "ProviderTokenViewSet",
    "StandingSerializer",
    "UsageSerializer",
    "UsageViewSet",
]
