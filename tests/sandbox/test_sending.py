"""The sandbox answers a sender as Meta would, and fails as it is told to."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from providers.base import Done, Failed, Hold, InDoubt, Lost, Reply, Retry, Standing, Throttled
from providers.http import send_now
from providers.registry import load_provider
from providers.whatsapp import (
    Template,
    check_token,
    get_number,
    list_templates,
    read_check,
    read_number,
    read_send,
    read_templates,
)
from sandbox import SandboxConfig, running
from tests.sandbox.conftest import NUMBER

QUICK = SandboxConfig(latency_ms=(0, 0))


def test_a_message_is_accepted_and_counted(send, stats):
    with running(QUICK) as vendor:
        outcomes = [read_send(send(vendor.url, to=f"+491511234567{n}")) for n in range(3)]
        counted = stats(vendor.url)["numbers"][NUMBER]
        taken = httpx.get(f"{vendor.url}/_sandbox/accepted?number={NUMBER}", trust_env=False).json()
    wamids = [outcome.fields["wamid"] for outcome in outcomes if isinstance(outcome, Done)]
    assert len(set(wamids)) == 3
    assert (counted["arrivals"], counted["accepted"], counted["recipients"]) == (3, 3, 3)
    assert [message["wamid"] for message in taken] == wamids
    assert [message["to"] for message in taken] == ["4915112345670", "4915112345671", "4915112345672"]
    assert taken[0]["attempt"] == "attempt-+4915112345670"


def test_one_recipient_messaged_twice_shows(send, stats):
    with running(QUICK) as vendor:
        send(vendor.url, attempt="a")
        send(vendor.url, attempt="b")
        total = stats(vendor.url)["total"]
    assert (total["recipients"], total["recipients_repeated"], total["attempts_repeated"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messaging_product": "sms"}, 100),
        ({"to": "call me"}, 131009),
        ({"to": None}, 131009),
        ({"type": "text"}, 100),
        ({"template": {"name": "offer"}}, 100),
        ({"template": {"name": "gone", "language": {"code": "en"}}}, 132001),
        ({"template": {"name": "worn", "language": {"code": "en"}}}, 132015),
        ({"biz_opaque_callback_data": "x" * 257}, 100),
    ],
)
def test_a_wrong_message_is_refused_in_graphs_words(changes, code, stats):
    body = {
        "messaging_product": "whatsapp",
        "to": "4915112345678",
        "type": "template",
        "template": {"name": "offer", "language": {"code": "en"}},
        **changes,
    }
    config = SandboxConfig(
        latency_ms=(0, 0), missing_templates=frozenset({"gone"}), paused_templates=frozenset({"worn"})
    )
    with running(config) as vendor:
        answer = httpx.post(
            f"{vendor.url}/v25.0/{NUMBER}/messages",
            content=orjson.dumps(body),
            headers={"authorization": "Bearer t0k"},
            trust_env=False,
        )
        counted = stats(vendor.url)["numbers"][NUMBER]
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] == code
    assert (counted["arrivals"], counted["accepted"], counted["errors"]) == (1, 0, {str(code): 1})


def test_tokens_that_are_dead_missing_or_spent(send):
    config = SandboxConfig(
        latency_ms=(0, 0), dead_tokens=frozenset({"dead"}), spent_tokens=frozenset({"spent"})
    )
    with running(config) as vendor:
        where: dict[str, Any] = {"base_url": vendor.url, "version": "v25.0"}
        dead = read_send(send(vendor.url, token="dead"))
        spent = read_send(send(vendor.url, token="spent"))
        bare = httpx.get(f"{vendor.url}/v25.0/me", trust_env=False)
        stood = [
            read_check(send_now(check_token(**where, token=token)))[0] for token in ("good", "dead", "spent")
        ]
    assert isinstance(dead, Hold)
    assert dead.reason == "token"
    assert isinstance(spent, Throttled)
    assert spent.after.total_seconds() == 60
    assert bare.status_code == 401
    assert stood == [Standing.ACTIVE, Standing.REVOKED, Standing.THROTTLED]


def test_an_account_is_proved_unless_it_is_shared_with_nobody():
    whatsapp = load_provider("whatsapp")
    with running(SandboxConfig(latency_ms=(0, 0), foreign_accounts=frozenset({"888"}))) as vendor:
        where: dict[str, Any] = {"base_url": vendor.url, "version": "v25.0", "token": "t0k"}
        for account_id, proved in (("777", True), ("888", False)):
            calls = whatsapp.prove_account(**where, account_id=account_id)
            proof = whatsapp.read_proof(
                [send_now(call) for call in calls], account_id=account_id, secrets=("t0k",)
            )
            assert (proof.account_id, proof.proved) == (account_id, proved)


def test_each_number_has_its_own_limit_in_any_second(send, stats):
    config = SandboxConfig(latency_ms=(0, 0), rate=5, rates={"222": 2, "333": 0})
    with running(config) as vendor:
        outcomes = {
            number: [read_send(send(vendor.url, to=f"+49151123456{n:02}", number=number)) for n in range(8)]
            for number in ("111", "222", "333")
        }
        counted = stats(vendor.url)["numbers"]
    for number, limit in (("111", 5), ("222", 2), ("333", 8)):
        kinds = [type(outcome) for outcome in outcomes[number]]
        seen = counted[number]
        if seen["seconds"] < 1.0:  # on a machine that stalls, the window may have moved on
            assert kinds == [Done] * limit + [Throttled] * (8 - limit)
        assert seen["worst_second_accepted"] <= limit
        assert seen["errors"].get("130429", 0) == kinds.count(Throttled)


def test_a_burst_refuses_everybody(send):
    config = SandboxConfig(latency_ms=(0, 0), burst_every=60, burst_length=60)
    with running(config) as vendor:
        assert isinstance(read_send(send(vendor.url)), Throttled)


@pytest.mark.parametrize(
    ("fault", "response", "outcome", "accepted"),
    [
        ({"fail_graph": 1.0}, Reply, Retry, 0),
        ({"fail_bare": 1.0}, Reply, InDoubt, 0),
        ({"reset_before": 1.0}, Lost, InDoubt, 0),
        ({"reset_after": 1.0}, Lost, InDoubt, 1),
        ({"hang_before": 1.0}, Lost, InDoubt, 0),
        ({"hang_after": 1.0}, Lost, InDoubt, 1),
        ({"unreadable": 1.0}, Reply, InDoubt, 1),
        ({"errors": {"131026": 1.0}}, Reply, Failed, 0),
        ({"errors": {"131048": 1.0}}, Reply, Hold, 0),
    ],
)
def test_every_fault_is_what_it_says(fault, response, outcome, accepted, send, stats):
    with running(QUICK.merge(fault)) as vendor:
        came = send(vendor.url, timeout=0.5)
        counted = stats(vendor.url)["numbers"][NUMBER]
    assert isinstance(came, response), came
    assert isinstance(read_send(came), outcome)
    assert (counted["arrivals"], counted["accepted"]) == (1, accepted)


def test_a_reset_is_a_reset_and_not_an_answer_cut_short(send):
    with running(QUICK.merge({"reset_after": 1.0})) as vendor:
        came = send(vendor.url)
    assert isinstance(came, Lost)
    assert "reset" in came.reason.lower()


def test_faults_come_in_their_shares(send, stats):
    with running(QUICK.merge({"rate": 0, "fail_graph": 0.3, "errors": {"131026": 0.3}})) as vendor:
        for n in range(200):
            send(vendor.url, to=f"+4915112{n:05}")
        total = stats(vendor.url)["total"]
    assert total["arrivals"] == 200
    assert total["accepted"] + total["faults"]["fail_graph"] + total["errors"]["131026"] == 200
    assert 25 <= total["faults"]["fail_graph"] <= 95  # 60 expected; six standard deviations
    assert 25 <= total["errors"]["131026"] <= 95


def test_answers_take_the_time_they_should(send):
    with running(SandboxConfig(latency_ms=(120, 0))) as vendor:
        came = send(vendor.url)
    assert isinstance(came, Reply)
    assert 0.119 <= came.elapsed < 2


def test_numbers_and_templates_can_be_read():
    with running(QUICK.merge({"rates": {"222": 250}})) as vendor:
        where: dict[str, Any] = {"base_url": vendor.url, "version": "v25.0", "token": "t0k"}
        small = read_number(send_now(get_number(**where, phone_number_id="111")))
        large = read_number(send_now(get_number(**where, phone_number_id="222")))
        templates: list[Template] = []
        after = None
        while True:
            page = read_templates(send_now(list_templates(**where, waba_id="555", after=after, limit=3)))
            templates += page.templates
            if not (after := page.after):
                break
    assert (small.throughput, large.throughput) == ("STANDARD", "HIGH")
    assert len({template.name for template in templates}) == len(templates) == 4
    assert {template.name: template.variables for template in templates}["winner"] == ("1", "2")


def test_one_numbers_faults_are_its_own(send, stats):
    config = QUICK.merge({"numbers": {"222": {"errors": {"131026": 1.0}}}})
    with running(config) as vendor:
        kinds = [type(read_send(send(vendor.url, number=number))) for number in ("111", "222", "111")]
        seen = stats(vendor.url)["numbers"]
    assert kinds == [Done, Failed, Done]
    assert (seen["111"]["accepted"], seen["222"]["accepted"]) == (2, 0)


def test_it_hangs_for_everybody_as_long_as_it_was_told(send, stats):
    with running(QUICK.merge({"hang_seconds": 0.2})) as vendor:
        httpx.post(f"{vendor.url}/_sandbox/config", json={"hang_all": 60}, trust_env=False)
        lost = [type(send(vendor.url, number=number)) for number in ("111", "222")]
        httpx.post(f"{vendor.url}/_sandbox/config", json={"hang_all": 0}, trust_env=False)
        answered = type(send(vendor.url, number="111"))
        total = stats(vendor.url)["total"]
    assert (lost, answered) == ([Lost, Lost], Reply)
    assert (total["accepted"], total["faults"]) == (1, {"hang_all": 2})


@pytest.mark.parametrize(
    ("odd", "status", "accepted", "there"),
    [
        ("odd_error", 500, 0, b"\\u0000"),
        ("odd_wamid", 200, 1, b"xxxxxxxxxx"),
        ("odd_shape", 200, 1, b'{"messages":{"id":7}'),
    ],
)
def test_odd_answers(send, stats, odd, status, accepted, there):
    with running(QUICK.merge({odd: 1.0})) as vendor:
        came = send(vendor.url)
        total = stats(vendor.url)["total"]
    assert isinstance(came, Reply)
    assert (came.status, total["accepted"], total["faults"]) == (status, accepted, {odd: 1})
    assert there in came.body


def test_jitter_holds_back_what_is_counted_and_not_what_arrived(send):
    with running(QUICK.merge({"rate": 0, "jitter_ms": 100})) as vendor:
        for n in range(50):
            send(vendor.url, to=f"+4915112{n:05}")
        number = vendor.sandbox.whatsapp.numbers[NUMBER]
    arrived, counted = number.arrivals._times, number.taken._times
    assert len(arrived) == len(counted) == 50
    assert arrived != counted
    moved = [after - before for before, after in zip(arrived, counted, strict=True)]
    assert 0.03 < max(moved) <= 0.1001
