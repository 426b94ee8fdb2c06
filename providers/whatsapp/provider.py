"""WhatsApp's answers to the registry: tokens, accounts (WABAs), webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from providers.base import Call, ProviderError, Reply, Response, Standing, clean, identifier
from providers.meta.graph import DETAIL_LENGTH, get, read_error, read_json
from providers.meta.webhook import SignedWebhook
from providers.registry import Proof
from providers.whatsapp.account import check_token, read_check
from providers.whatsapp.events import Event
from providers.whatsapp.webhook import parse_webhook

_TIMEOUT = 10.0


class WhatsAppWebhook(SignedWebhook):
    def parse(self, body: bytes) -> list[Event]:
        return parse_webhook(body)


class WhatsApp:
    """A token claims one WhatsApp Business Account, `config["waba_id"]`."""

    webhook = WhatsAppWebhook()

    def accounts(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """List the claimed WABA, if any. Raises ProviderError when its id is not made of digits."""
        claimed = config.get("waba_id")
        if claimed is None or claimed == "":
            return ()
        text = identifier(claimed, 64)
        if not (text.isascii() and text.isdigit()):
            raise ProviderError("waba_id must be the account's id at Meta, digits only")
        return (text,)

    def check_token(self, *, base_url: str, version: str, token: str, config: Mapping[str, Any]) -> Call:
        """Ask about the claimed account, else about the token alone."""
        object_id = next(iter(self.accounts(config)), "me")
        return check_token(
            base_url=base_url, version=version, token=token, object_id=object_id, timeout=_TIMEOUT
        )

    def read_check(self, response: Response, *, secrets: tuple[str, ...]) -> tuple[Standing, str]:
        return read_check(response, secrets=secrets)

    def prove_account(self, *, base_url: str, version: str, token: str, account_id: str) -> tuple[Call, ...]:
        """Ask for the account by its id, and for its numbers, which only its partners may list."""
        return tuple(
            get(base_url=base_url, version=version, path=path, token=token, timeout=_TIMEOUT, fields=fields)
            for path, fields in ((account_id, "id,name"), (f"{account_id}/phone_numbers", "id"))
        )

    def read_proof(
        self, responses: Sequence[Response], *, account_id: str, secrets: tuple[str, ...]
    ) -> Proof:
        """Proved when Graph gives the very account, and a list of numbers (an empty one will do)."""
        account, numbers = (_read(response, secrets) for response in responses)
        if isinstance(account, str):
            return Proof(account_id, False, account)
        if clean(account.get("id")) != account_id:
            return Proof(account_id, False, "Meta answers with another object than the account")
        if isinstance(numbers, str):
            return Proof(account_id, False, f"its numbers cannot be read: {numbers}")
        if not isinstance(numbers.get("data"), list):
            return Proof(account_id, False, "its numbers cannot be read: Meta answers without a list of them")
        return Proof(account_id, True)


def _read(response: Response, secrets: tuple[str, ...]) -> dict[str, Any] | str:
    """Read a Graph object, or say in words why there is none."""
    if not isinstance(response, Reply):
        return clean(response.reason, DETAIL_LENGTH, secrets)
    data = read_json(response.body)
    if error := read_error(data, secrets):
        return f"{error.code}: {error.detail}"
    if data is None or response.status >= 300:
        return f"HTTP {response.status} that cannot be read"
    return data


PROVIDER = WhatsApp()
