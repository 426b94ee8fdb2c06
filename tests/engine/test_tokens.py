"""A token is asked about at the vendor, and what the vendor says has consequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from engine.actions.tokens import check_new_tokens, check_token
from engine.models import Incident, Lane
from providers.base import Standing
from tenants.errors import ActionRefused
from tenants.models import ProviderToken, Tenant, VendorAccount
from tenants.scope import all_tenants, tenant_scope
from tests.api.conftest import client_for
from tests.engine.vendor import Request, Vendor, serve
from tests.factories import LaneFactory, ProviderTokenFactory, two_tenants

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "EAAthe-secret"


def graph_error(code: int, subcode: int | None = None, message: str = "no") -> tuple[int, Any]:
    error = {"message": message, "type": "OAuthException", "code": code}
    return 401, {"error": error | ({"error_subcode": subcode} if subcode else {})}


@pytest.fixture
def vendor(settings: Any) -> Iterator[Vendor]:
    with serve() as vendor:
        settings.WHATSAPP_URL = vendor.url
        yield vendor


@pytest.fixture
def tenants() -> tuple[Tenant, Tenant]:
    return two_tenants()


@pytest.fixture
def token(tenants: tuple[Tenant, Tenant]) -> Any:
    with all_tenants():
        token: Any = ProviderTokenFactory(
            tenant=tenants[0], secret=SECRET, config={"waba_id": "77", "version": "v9.9"}
        )
        LaneFactory(tenant=tenants[0], token=token)
        LaneFactory(tenant=tenants[1])
    return token


def state_of(token: ProviderToken) -> tuple[str, str]:
    with all_tenants():
        row = ProviderToken.objects.get(pk=token.pk)
        return row.state, row.last_error


def paused_lanes() -> list[int]:
    with all_tenants():
        return list(Lane.objects.exclude(paused_at=None).values_list("tenant_id", flat=True))


@pytest.mark.parametrize(
    ("answer", "standing", "pauses"),
    [
        ((200, {"id": "77"}), Standing.ACTIVE, False),
        (graph_error(190, 463), Standing.EXPIRED, True),
        (graph_error(190, 460), Standing.REVOKED, True),
        (graph_error(190), Standing.REVOKED, True),
        (graph_error(80007), Standing.THROTTLED, False),
        (graph_error(999), Standing.FAILING, False),
    ],
)
def test_what_the_vendor_says_is_kept_and_a_dead_token_pauses_its_lanes(
    vendor: Vendor, token: Any, answer: Any, standing: Standing, pauses: bool
) -> None:
    vendor.answer = lambda _: answer
    assert check_token(token_id=token.pk)[0] is standing
    assert state_of(token)[0] == standing.value
    assert paused_lanes() == ([token.tenant_id] if pauses else [])
    with all_tenants():
        assert Incident.objects.filter(tenant=token.tenant_id, ended_at=None).count() == int(pauses)
    assert vendor.requests[0].path.startswith("/v9.9/77?")


def test_the_secret_is_never_kept_or_told(vendor: Vendor, token: Any) -> None:
    vendor.answer = lambda _: graph_error(190, message=f"Cannot parse {SECRET}")
    _, detail = check_token(token_id=token.pk)
    with all_tenants():
        told = [detail, *state_of(token), *Incident.objects.values_list("summary", flat=True)]
        told += Lane.objects.values_list("last_error", flat=True)
    assert "***" in detail
    assert not any(SECRET in text for text in told)


def test_a_token_that_works_again_ends_the_incident_and_lanes_wait_for_a_person(
    vendor: Vendor, token: Any
) -> None:
    vendor.answer = lambda _: graph_error(190)
    check_token(token_id=token.pk)
    vendor.answer = graph("77")
    assert check_token(token_id=token.pk) == (Standing.ACTIVE, "")
    assert state_of(token) == ("active", "")
    with all_tenants():
        assert not Incident.objects.filter(ended_at=None).exists()
    assert paused_lanes() == [token.tenant_id]


def test_a_secret_that_was_changed_meanwhile_is_not_judged_by_the_old_one(vendor: Vendor, token: Any) -> None:
    def change_it_and_refuse(_: Request) -> Any:
        token.secret = "EAAanother"
        with all_tenants():
            token.save()
        connection.close()  # this is the vendor's thread
        return graph_error(190)

    vendor.answer = change_it_and_refuse
    check_token(token_id=token.pk)
    assert state_of(token) == ("active", "")
    assert paused_lanes() == []


@pytest.mark.parametrize("answer", [(500, {}), None], ids=["HTTP 500", "cut off"])
def test_an_outage_says_nothing_about_the_token(vendor: Vendor, token: Any, answer: Any) -> None:
    vendor.answer = lambda _: answer
    before = state_of(token)
    with pytest.raises(ActionRefused, match="could not be checked"):
        check_token(token_id=token.pk)
    assert state_of(token) == before
    assert paused_lanes() == []


def test_it_refuses_to_call_out_inside_a_transaction(vendor: Vendor, token: Any) -> None:
    with pytest.raises(RuntimeError, match="transaction"), transaction.atomic():
        check_token(token_id=token.pk)
    assert vendor.requests == []


def test_what_cannot_be_asked_about_is_refused(
    vendor: Vendor, tenants: tuple[Tenant, Tenant], settings: Any
) -> None:
    with pytest.raises(ActionRefused):
        check_token(token_id=2**40)
    with all_tenants():
        sealed: Any = ProviderTokenFactory(tenant=tenants[0])
    settings.TOKEN_KEYS = ["b3RoZXIta2V5LW90aGVyLWtleS1vdGhlci1rZXktISE="]
    with pytest.raises(ActionRefused, match="TOKEN_KEYS"):
        check_token(token_id=sealed.pk)
    assert vendor.requests == []


def test_the_api_checks_a_token_outside_its_transaction(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    vendor.answer = lambda _: graph_error(190, 463, "Session has expired")
    response = client_for(tenants[0]).post(f"/api/v1/provider-tokens/{token.pk}/check/")
    assert response.status_code == 200, response.content
    assert response.json()["state"] == "expired"
    assert "Session has expired" in response.json()["detail"]
    assert state_of(token)[0] == "expired"


def test_the_api_does_not_check_another_tenants_token(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    assert client_for(tenants[1]).post(f"/api/v1/provider-tokens/{token.pk}/check/").status_code == 404
    assert (
        client_for(tenants[0], ["provider-tokens:read"])
        .post(f"/api/v1/provider-tokens/{token.pk}/check/")
        .status_code
        == 403
    )
    assert vendor.requests == []


def test_the_command_asks_about_every_token_and_fails_for_a_dead_one(
    vendor: Vendor, token: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.answer = lambda request: (200, {"id": "x"})
    call_command("check_tokens")
    assert "2 of 2 provider tokens work" in capsys.readouterr().out
    vendor.answer = lambda request: graph_error(190) if "/77" in request.path else (200, {"id": "x"})
    with pytest.raises(CommandError, match="1 of 2 provider tokens do not work"):
        call_command("check_tokens")
    out = capsys.readouterr().out
    assert "revoked" in out
    assert SECRET not in out


def test_a_tokens_secrets_are_sealed_at_rest(token: Any) -> None:
    with tenant_scope(token.tenant_id), connection.cursor() as cursor:
        cursor.execute("SELECT t::text FROM tenants_providertoken t")
        assert all(SECRET not in row for (row,) in cursor.fetchall())


# -- accounts: proved with the vendor, not declared


def graph(*shared: str) -> Any:
    """Answer as Graph does to a token that these accounts are shared with."""

    def answer(request: Request) -> Any:
        _, _, object_id, *edge = request.path.partition("?")[0].split("/")
        if object_id not in {*shared, "me"}:
            return graph_error(100, message="Unsupported get request")
        return (200, {"data": [{"id": "1055"}]}) if edge else (200, {"id": object_id, "name": "Acme"})

    return answer


def owners() -> dict[str, int | None]:
    with all_tenants():
        return dict(VendorAccount.objects.values_list("account_id", "tenant_id"))


def claim(tenant: Tenant | None, account_id: str) -> ProviderToken:
    with all_tenants():
        token: ProviderToken = ProviderTokenFactory.create(tenant=tenant, config={"waba_id": account_id})
    return token


def test_a_check_proves_the_account_that_the_token_claims(vendor: Vendor, token: Any) -> None:
    vendor.answer = graph("77")
    assert check_token(token_id=token.pk) == (Standing.ACTIVE, "")
    assert owners() == {"77": token.tenant_id}
    assert check_token(token_id=token.pk) == (Standing.ACTIVE, ""), "again, for the same tenant"
    assert owners() == {"77": token.tenant_id}


@pytest.mark.parametrize(
    "numbers",
    [graph_error(200), graph_error(100), (200, {"id": "77"}), (200, {}), (500, {}), None],
    ids=["no permission", "no such edge", "an object", "nothing", "HTTP 500", "cut off"],
)
def test_an_account_whose_numbers_the_token_may_not_read_is_not_proved(
    vendor: Vendor, token: Any, numbers: Any
) -> None:
    vendor.answer = lambda request: numbers if "phone_numbers" in request.path else graph("77")(request)
    standing, detail = check_token(token_id=token.pk)
    assert standing is Standing.ACTIVE, "the token itself works"
    assert "77 is not proved" in detail
    assert state_of(token) == ("active", detail)
    assert owners() == {}


def test_an_account_of_another_tenant_is_not_given_away(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    vendor.answer = graph("77")
    check_token(token_id=token.pk)
    for other in (claim(tenants[1], "77"), claim(None, "77")):
        with pytest.raises(ActionRefused, match="77 belongs to another tenant") as refused:
            check_token(token_id=other.pk)
        assert "acme" not in str(refused.value).lower(), "whose it is stays between them and us"
        assert state_of(other)[0] == "active"
        assert "another tenant" in state_of(other)[1]
    assert owners() == {"77": tenants[0].pk}


def test_an_account_that_its_tenant_claims_no_more_can_be_proved_by_another(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    vendor.answer = graph("77", "78")
    check_token(token_id=token.pk)
    with all_tenants():
        ProviderToken.objects.filter(pk=token.pk).update(config={"waba_id": "78"})
    check_token(token_id=claim(tenants[1], "77").pk)
    assert owners() == {"77": tenants[1].pk}


def test_a_dead_token_proves_nothing_and_takes_nothing_away(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    vendor.answer = lambda _: graph_error(190)
    check_token(token_id=token.pk)
    assert owners() == {}
    vendor.answer = graph("77")
    check_token(token_id=token.pk)
    vendor.answer = lambda _: graph_error(190)
    check_token(token_id=token.pk)
    assert owners() == {"77": tenants[0].pk}


@pytest.mark.parametrize("claimed", ["me", "77/phone_numbers", "77?fields=id", "waba-77", ["77"]])
def test_a_claim_that_is_no_account_is_refused_before_anybody_is_asked(
    vendor: Vendor, tenants: tuple[Tenant, Tenant], claimed: Any
) -> None:
    token = claim(tenants[0], claimed)
    with pytest.raises(ActionRefused, match="waba_id"):
        check_token(token_id=token.pk)
    assert vendor.requests == []


def test_a_new_token_is_asked_about_once_by_itself(
    vendor: Vendor, token: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    vendor.answer = graph("77", "102290129340398")
    wrong = claim(tenants[1], "no-account")
    assert check_new_tokens() == 3
    assert owners() == {"77": tenants[0].pk, "102290129340398": tenants[1].pk}
    assert "waba_id" in state_of(wrong)[1]
    asked = len(vendor.requests)
    assert check_new_tokens() == 0
    assert len(vendor.requests) == asked


def test_a_vendor_that_is_away_is_not_asked_all_over_again(vendor: Vendor, token: Any) -> None:
    vendor.answer = lambda _: (503, {})
    assert check_new_tokens() == 2
    assert check_new_tokens() == 0
    assert "the vendor is away" in state_of(token)[1]


def test_the_command_names_the_platforms_own_tokens(
    vendor: Vendor, token: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.answer = graph("77", "78", "102290129340398")
    own = claim(None, "78")
    call_command("check_tokens")
    assert f"platform  {own}  active" in capsys.readouterr().out
    assert owners()["78"] is None


def test_a_vendor_that_is_not_spoken_yet_is_refused(tenants: tuple[Tenant, Tenant]) -> None:
    with all_tenants():
        token: Any = ProviderTokenFactory(tenant=tenants[0], provider="lime")
    with pytest.raises(ActionRefused, match="Lime SMS is not spoken yet"):
        check_token(token_id=token.pk)
