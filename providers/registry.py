"""The vendors, named here and nowhere else, and what each must answer about itself.

Whoever needs a vendor's label, address or webhook asks here by the contract's name, so that the engine, the
admin and the receivers of webhooks name none. What is particular to one application (how a message is sent,
a post is read) is a function of the vendor's own module, called by that application.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from providers.base import Call, ProviderError, Response, Standing


@dataclass(slots=True, frozen=True)
class WebhookSecrets:
    """What one side agreed on with a vendor for webhooks: the platform (`tenant_id` None) or a tenant.

    `secret` signs bodies or stands in the address, `verify_token` answers a handshake; "": there is none.
    """

    tenant_id: int | None
    secret: str = field(default="", repr=False)
    verify_token: str = field(default="", repr=False)


@dataclass(slots=True, frozen=True)
class Proof:
    """Whether a token may work for an account, as the vendor says. `detail`: its words when it may not."""

    account_id: str
    proved: bool
    detail: str = ""


class Webhook(Protocol):
    """The way in of a vendor that posts to us, at `/webhooks/<vendor>/` or `/webhooks/<vendor>/<rest>/`."""

    @property
    def body_limit(self) -> int:
        """Bytes of the largest body that is taken."""

    @property
    def secret_settings(self) -> Mapping[str, str]:
        """The Django settings with the platform's own `WebhookSecrets`: {"secret": "META_APP_SECRET", …}."""

    @property
    def token_settings(self) -> Mapping[str, str]:
        """The same of a provider token's settings: {"secret": "app_secret", …}."""

    def greet(self, params: Mapping[str, str], secrets: Sequence[WebhookSecrets]) -> str | None:
        """Answer a GET, with its query's `params`, by plain text; None to refuse it."""

    def verify(
        self, body: bytes, headers: Mapping[str, str], path_rest: str, secrets: Sequence[WebhookSecrets]
    ) -> tuple[int | None, ...]:
        """Say who vouches for a body: the ids of tenants, or (None,) for the platform, which speaks for all.

        `headers` have lower-case names, `path_rest` is what follows the vendor's name in the address, without
        slashes at its ends. Raises BadSignature when nobody does. Must not trust anything inside the body.
        """

    def parse(self, body: bytes) -> Sequence[Any]:
        """Read a body into the vendor's events, cleaned. Raises Unreadable when it holds none."""


class Provider(Protocol):
    """What every vendor's module answers about its tokens and webhooks, in pure functions.

    `base_url` has no slash at its end, `version` is "" for a vendor without versions, `config` is what the
    token keeps openly beside its secret.
    """

    @property
    def webhook(self) -> Webhook | None:
        """The way in; None when the vendor posts nothing to us."""

    def accounts(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """List the vendor's accounts that a token claims to work for. Raises ProviderError for nonsense."""

    def check_token(self, *, base_url: str, version: str, token: str, config: Mapping[str, Any]) -> Call:
        """Build the cheapest call that a dead token cannot make."""

    def read_check(self, response: Response, *, secrets: tuple[str, ...]) -> tuple[Standing, str]:
        """Say how the token stands, and why in the vendor's words."""

    def prove_account(self, *, base_url: str, version: str, token: str, account_id: str) -> tuple[Call, ...]:
        """Build the calls that only a token which may work for the account can make."""

    def read_proof(
        self, responses: Sequence[Response], *, account_id: str, secrets: tuple[str, ...]
    ) -> Proof:
        """Judge the responses to `prove_account`, in its order."""


@dataclass(slots=True, frozen=True)
class Vendor:
    """A name of the contract. `url_settings` name the Django settings with its addresses, the main one first.

    `module` holds its `PROVIDER`; "" while it is not spoken yet.
    """

    name: str
    label: str
    url_settings: tuple[str, ...]
    default_version: str = ""
    module: str = ""


VENDORS: Mapping[str, Vendor] = {
    vendor.name: vendor
    for vendor in (
        Vendor("whatsapp", "WhatsApp", ("WHATSAPP_URL",), "v25.0", "providers.whatsapp.provider"),
        Vendor("meta", "Meta Graph", ("META_GRAPH_URL", "INSTAGRAM_GRAPH_URL"), "v25.0"),
        Vendor("lime", "Lime SMS", ("LIME_URL",)),
        Vendor("apify", "Apify", ("APIFY_URL",)),
        Vendor("youtube", "YouTube", ("YOUTUBE_URL",)),
    )
}


def find_vendor(name: str) -> Vendor:
    """Find a vendor by the contract's name for it. Raises ProviderError when there is no such vendor."""
    vendor = VENDORS.get(name)
    if vendor is None:
        raise ProviderError(f"there is no provider {name!r}: it is one of {', '.join(VENDORS)}")
    return vendor


def load_provider(name: str) -> Provider:
    """Load what speaks to a vendor. Raises ProviderError for an unknown vendor and one not spoken yet."""
    vendor = find_vendor(name)
    if not vendor.module:
        raise ProviderError(f"{vendor.label} is not spoken yet")
    provider: Provider = import_module(vendor.module).PROVIDER
    return provider


def load_webhook(name: str) -> Webhook | None:
    """Load a vendor's way in; None when there is no such vendor, or it posts nothing to us."""
    vendor = VENDORS.get(name)
    return load_provider(name).webhook if vendor and vendor.module else None
