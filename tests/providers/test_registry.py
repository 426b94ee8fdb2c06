"""Every vendor of the registry answers the same questions, or is refused clearly."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings

from providers.base import BadSignature, Call, Lost, ProviderError, Reply, Standing, Unreadable, Unsent
from providers.meta.webhook import sign
from providers.registry import (
    VENDORS,
    Provider,
    Webhook,
    WebhookSecrets,
    find_vendor,
    load_provider,
    load_webhook,
)
from tests.providers.contract import PROVIDERS
from tests.providers.fit import unfit

SECRET = "EAAB-s3cret/with+signs="
WHERE: dict[str, Any] = {"base_url": "https://vendor.example.invalid", "version": "v25.0", "token": SECRET}
CLAIMS: dict[str, tuple[dict[str, Any], str]] = {"whatsapp": ({"waba_id": "77"}, "77")}
"""By vendor: a token's open settings that claim one account, and that account."""
NO_ACCOUNTS: dict[str, list[Any]] = {
    "whatsapp": ["me", "77/phone_numbers", "77?fields=id", "7 7", "７７", True]
}
"""By vendor: what its accounts are never called, beside what no vendor's are."""
SIGNED: dict[str, Any] = {
    "whatsapp": lambda body, secret: ({"x-hub-signature-256": sign(body, secret)}, ""),
}
"""By vendor: how a body is vouched for, as (headers, rest of the address)."""
SPOKEN = [name for name, vendor in VENDORS.items() if vendor.module]
EVERY = pytest.mark.parametrize("provider", [load_provider(name) for name in SPOKEN], ids=SPOKEN)


def test_every_vendor_that_is_spoken_is_examined() -> None:
    assert {spoken.name for spoken in PROVIDERS} == set(SPOKEN), "tests/providers/contract.py lacks one"
    assert set(NO_ACCOUNTS) == set(CLAIMS) <= set(SPOKEN)
    assert set(SIGNED) == set(WITH_WEBHOOK)


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))
def test_a_vendor_has_a_label_and_addresses_among_the_settings(vendor: Any) -> None:
    assert find_vendor(vendor.name) is vendor
    assert vendor.label
    assert vendor.url_settings
    for name in vendor.url_settings:
        assert getattr(settings, name).startswith("http")


@pytest.mark.parametrize("name", ["whatsap", "../os", "", "providers.whatsapp"])
def test_an_unknown_vendor_is_refused(name: str) -> None:
    with pytest.raises(ProviderError, match="no provider"):
        load_provider(name)
    assert load_webhook(name) is None


@pytest.mark.parametrize("name", [name for name in VENDORS if name not in SPOKEN])
def test_a_vendor_that_is_not_spoken_yet_is_refused(name: str) -> None:
    with pytest.raises(ProviderError, match="not spoken yet"):
        load_provider(name)
    assert load_webhook(name) is None


def claims(provider: Provider) -> tuple[dict[str, Any], str]:
    return next(CLAIMS[name] for name in SPOKEN if load_provider(name) is provider)


@EVERY
def test_a_token_claims_what_its_settings_say(provider: Provider) -> None:
    config, account_id = claims(provider)
    assert provider.accounts({}) == ()
    assert provider.accounts(config) == (account_id,)


@EVERY
def test_a_claim_that_is_no_account_is_refused(provider: Provider) -> None:
    config, account_id = claims(provider)
    name = next(name for name in SPOKEN if load_provider(name) is provider)
    for odd in ("..", account_id * 65, f"{account_id}\0", [], {}, *NO_ACCOUNTS[name]):
        with pytest.raises(ProviderError):
            provider.accounts(dict.fromkeys(config, odd))


@EVERY
def test_calls_carry_the_secret_and_do_not_show_it(provider: Provider) -> None:
    config, account_id = claims(provider)
    calls: list[Call] = [
        provider.check_token(**WHERE, config={}),
        provider.check_token(**WHERE, config=config),
        *provider.prove_account(**WHERE, account_id=account_id),
    ]
    for call in calls:
        assert SECRET in call.secrets
        assert SECRET not in str(call)
        assert call.url.startswith("https://vendor.example.invalid/")


@EVERY
def test_what_is_no_answer_proves_nothing(provider: Provider) -> None:
    _, account_id = claims(provider)
    n = len(provider.prove_account(**WHERE, account_id=account_id))
    for response in (
        Unsent(f"refused {SECRET}"),
        Lost(f"reset\0 {SECRET}"),
        Reply(500, {}, b"<html>"),
        Reply(200, {}, b""),
        Reply(200, {}, b"{}"),
        Reply(200, {}, b'{"id":"78","data":[]}'),
        Reply(401, {}, b'{"id":"77","data":[]}'),
        Reply(403, {}, b'{"error":{"code":10,"message":"no \\u0000 %s"}}' % SECRET.encode()),
    ):
        proof = provider.read_proof([response] * n, account_id=account_id, secrets=(SECRET,))
        assert not proof.proved
        assert proof.detail
        assert SECRET not in proof.detail
        assert not unfit(proof)
        standing, words = provider.read_check(response, secrets=(SECRET,))
        assert isinstance(standing, Standing)
        assert SECRET not in words


def test_whatsapp_proves_an_account_by_itself_and_its_numbers() -> None:
    whatsapp = load_provider("whatsapp")
    account, numbers = whatsapp.prove_account(**WHERE, account_id="77")
    assert account.url == "https://vendor.example.invalid/v25.0/77?fields=id%2Cname"
    assert numbers.url == "https://vendor.example.invalid/v25.0/77/phone_numbers?fields=id"
    the_account = Reply(200, {}, b'{"id":"77","name":"Acme"}')
    refused = Reply(403, {}, b'{"error":{"code":200,"message":"not yours"}}')
    a_list = Reply(200, {}, b'{"data":[{"id":"1"}]}')

    def proved(*responses: Any) -> bool:
        return whatsapp.read_proof(responses, account_id="77", secrets=()).proved

    assert proved(the_account, a_list)
    assert proved(the_account, Reply(200, {}, b'{"data":[]}'))
    assert not proved(the_account, refused)
    assert not proved(refused, a_list)
    assert not proved(the_account, the_account)
    assert not proved(Reply(200, {}, b'{"id":"077"}'), a_list)


WITH_WEBHOOK = [name for name in SPOKEN if load_webhook(name)]
EVERY_WEBHOOK = pytest.mark.parametrize("name", WITH_WEBHOOK)
PLATFORM, ACME, BOLT, TWIN = (
    WebhookSecrets(None, "the platform's", "word"),
    WebhookSecrets(1, "acme's", "acme's word"),
    WebhookSecrets(2, "bolt's"),
    WebhookSecrets(3, "acme's"),
)


def webhook_of(name: str) -> Webhook:
    webhook = load_webhook(name)
    assert webhook is not None
    return webhook


@EVERY_WEBHOOK
def test_a_signed_body_is_its_signers(name: str) -> None:
    webhook, body = webhook_of(name), b'{"entry":[]}'
    everybody = [PLATFORM, ACME, BOLT, TWIN, WebhookSecrets(4), WebhookSecrets(5, "the platform's")]
    for secret, signers in (("the platform's", (None,)), ("bolt's", (2,)), ("acme's", (1, 3))):
        headers, rest = SIGNED[name](body, secret)
        assert webhook.verify(body, headers, rest, everybody) == signers
        with pytest.raises(BadSignature):
            webhook.verify(body + b" ", headers, rest, [WebhookSecrets(4)])
    for secret in ("", "guess"):
        headers, rest = SIGNED[name](body, secret)
        with pytest.raises(BadSignature):
            webhook.verify(body, headers, rest, everybody)
    with pytest.raises(BadSignature):
        webhook.verify(body, {}, "", everybody)
    with pytest.raises(BadSignature):
        webhook.verify(body, {"x-hub-signature-256": "sha256=\udc80é"}, "guess", everybody)


@EVERY_WEBHOOK
def test_a_webhook_names_the_settings_of_its_secrets(name: str) -> None:
    webhook = webhook_of(name)
    for setting in webhook.secret_settings.values():
        assert hasattr(settings, setting)
    assert webhook.body_limit > 0
    for settings_of in (webhook.secret_settings, webhook.token_settings):
        WebhookSecrets(None, **dict.fromkeys(settings_of, "x"))


@EVERY_WEBHOOK
@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"7", b"[" * 2_000])
def test_a_body_without_events_is_unreadable(name: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        webhook_of(name).parse(body)
