"""Every resource of the API. The basename of each is also the name of its scopes."""

from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import SimpleRouter

from campaigns.api import CampaignViewSet, CohortViewSet, ContactViewSet, SegmentViewSet
from engine.api import ProviderTokenViewSet, UsageViewSet
from messaging.api import (
    BroadcastViewSet,
    MessageViewSet,
    SenderViewSet,
    SuppressionViewSet,
    TemplateViewSet,
)
from tenants.api.problems import no_such_address

router = SimpleRouter()
router.register("contacts", ContactViewSet, "contacts")
router.register("campaigns", CampaignViewSet, "campaigns")
router.register("segments", SegmentViewSet, "segments")
router.register("cohorts", CohortViewSet, "cohorts")
router.register("provider-tokens", ProviderTokenViewSet, "provider-tokens")
router.register("usage", UsageViewSet, "usage")
router.register("senders", SenderViewSet, "senders")
router.register("templates", TemplateViewSet, "templates")
router.register("broadcasts", BroadcastViewSet, "broadcasts")
router.register("messages", MessageViewSet, "messages")
router.register("suppressions", SuppressionViewSet, "suppressions")

urlpatterns = [
    path("v1/", include(router.urls)),
    path("schema/", SpectacularAPIView.as_view(throttle_classes=[]), name="api-schema"),
    path(
        "docs/", SpectacularSwaggerView.as_view(url_name="api-schema", throttle_classes=[]), name="api-docs"
    ),
    re_path("", no_such_address),
]
