"""Every provider passes the same examination."""

from __future__ import annotations

import pytest

from providers.base import (
    Call,
    Continue,
    Done,
    Failed,
    Hold,
    InDoubt,
    Lost,
    Reply,
    Retry,
    Throttled,
    Unsent,
    exchange,
)
from tests.providers.contract import PROVIDERS, SECRET, Spoken
from tests.providers.fit import unfit

EVERY = pytest.mark.parametrize("spoken", PROVIDERS, ids=str)
OUTCOMES = (Continue, Done, Retry, Throttled, Failed, InDoubt, Hold)


@EVERY
def test_success_is_done(spoken: Spoken) -> None:
    assert isinstance(spoken.read(spoken.done), Done)


@EVERY
def test_429_is_throttled_and_costs_no_attempt(spoken: Spoken) -> None:
    for body in (b"", b"<html>slow down</html>", b"{}", spoken.error(987654, "slow down")):
        outcome = spoken.read(Reply(429, {}, body))
        assert isinstance(outcome, Throttled)
        assert outcome.after.total_seconds() > 0


@EVERY
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateways_5xx_is_never_a_final_failure(spoken: Spoken, status: int) -> None:
    outcome = spoken.read(Reply(status, {}, b"<html>Bad Gateway</html>"))
    assert isinstance(outcome, InDoubt if spoken.sends else Retry)


@EVERY
def test_what_never_left_is_tried_again(spoken: Spoken) -> None:
    assert isinstance(spoken.read(Unsent("connection refused")), Retry)


@EVERY
def test_what_was_lost_is_tried_again_only_by_a_reader(spoken: Spoken) -> None:
    assert isinstance(spoken.read(Lost("timed out")), InDoubt if spoken.sends else Retry)


@EVERY
@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"<html>", b"null", b"[]", b'"ok"', b"{}", b'{"error":null}']
)
def test_an_unreadable_success_is_not_a_success(spoken: Spoken, body: bytes) -> None:
    assert isinstance(spoken.read(Reply(200, {}, body)), InDoubt if spoken.sends else Retry)


@EVERY
@pytest.mark.parametrize("code", [987654, -1, 10**30, "", "no-such-code", None, True, 1.5, [], {}])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_unknown_code_is_a_value(spoken: Spoken, code: object, status: int) -> None:
    if code == 10**30:  # beyond JSON libraries' integers: written by hand
        body = spoken.error(424242424242, "odd").replace(b"424242424242", b"1" + b"0" * 30)
    else:
        body = spoken.error(code, "odd")
    assert isinstance(spoken.read(Reply(status, {}, body)), OUTCOMES)


@EVERY
def test_no_outcome_shows_a_secret_that_the_vendor_repeats(spoken: Spoken) -> None:
    for status in (200, 400, 401, 429, 500):
        for code in (1, 4, 100, 190, 987654):
            outcome = spoken.read(Reply(status, {}, spoken.error(code, f"bad token {SECRET}")))
            assert SECRET not in repr(outcome)
    for response in (Unsent(f"no route to ?key={SECRET}"), Lost(f"reset ?key={SECRET}")):
        assert SECRET not in repr(spoken.read(response))


@EVERY
def test_no_call_and_no_stored_exchange_shows_a_secret(spoken: Spoken) -> None:
    call = spoken.make()
    assert SECRET in str(dict(call.headers)) + call.url + call.body.decode(), "else this proves nothing"
    assert SECRET in call.secrets
    reply = Reply(400, {"set-cookie": "session=1", "x-echo": SECRET}, f"no {SECRET}".encode(), 0.1)
    for shown in (str(call), repr(call), *(str(exchange(call, back)) for back in (reply, Lost(SECRET)))):
        assert SECRET not in shown
        assert "session=1" not in shown


@EVERY
def test_no_outcome_holds_what_postgresql_or_people_cannot_take(spoken: Spoken) -> None:
    for words in ("no\0t", "\x1b[31mred", "\x85", "w" * 9_000):
        for code in (1, 4, 100, 190, 987654, "13\x001"):
            assert not unfit(spoken.read(Reply(400, {}, spoken.error(code, words))))
    lone = spoken.error(987654, "HERE").replace(b"HERE", b"\\ud800")
    assert not unfit(spoken.read(Reply(400, {}, lone)))
    for response in (Unsent("no\0 route \udc80"), Lost("reset\0")):
        assert not unfit(spoken.read(response))


@EVERY
def test_every_vendor_word_is_kept_short(spoken: Spoken) -> None:
    outcome = spoken.read(Reply(400, {}, spoken.error(987654, "long " * 10_000)))
    assert len(repr(outcome)) < 2_000


def test_an_exchange_is_redacted_before_it_is_cut() -> None:
    call = Call("POST", "https://x.invalid/?key=a%2Fb", {"X-Key": "a/b"}, b"12345678a/b", secrets=("a/b",))
    record = exchange(call, Reply(200, {}, b"12345678a/b\x00"), limit=10)
    assert record["url"] == "https://x.invalid/?key=***"
    assert record["headers"] == {"X-Key": "***"}
    assert record["body"] == record["reply"]["body"] == "12345678**"
