"""A commit takes effect and its answer is lost on the way: nothing stays in nobody's hands."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import TimeoutExpired

import pytest

from benchmarks.harness import fill, sandbox, sending
from engine.models import Run
from tenants.scope import all_tenants
from tests.reliability.instruments import Commit, losing_answers
from tests.reliability.ledger import assert_nobody_twice, counts, taken

MESSAGES = 240
EVERY = 4


@pytest.mark.slow
def test_a_claim_whose_answer_is_lost_strands_no_row() -> None:
    """Once the rows of a claim that nobody heard of stayed `claimed` for ever, in the name of a run that
    lived on and held their lane: `--until-empty` never ended, and nobody sent them."""
    lost_claims: list[int] = []

    def lose(commit: Commit) -> bool:
        if commit.claims and len(lost_claims) < 2:
            lost_claims.append(commit.number)
            return True
        return False

    _send_through(lose)
    assert lost_claims, "no claim passed the proxy: the test shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(3))
def test_whichever_commits_answer_is_lost_everybody_is_written_to_once(first: int) -> None:
    """Every fourth commit's answer is lost, counted from three places: claims, marks, settlements
    and leases. What was committed stands, what was not is done again, and neither is taken for the other."""
    lost = _send_through(lambda commit: commit.number % EVERY == first and commit.number > EVERY)
    assert len(lost) >= 3, "hardly an answer was lost: the test shows nothing"


def _send_through(lose: Callable[[Commit], bool]) -> list[Commit]:
    with sandbox(latency_ms=[30, 10], rate=0) as vendor, losing_answers(lose) as proxy:
        fill(messages=MESSAGES, senders=2, rate=100)
        environment = {"DATABASE_URL": proxy.database_url, "LEASE_SECONDS": "15"}
        with sending(vendor, "--until-empty", **environment) as process:
            try:
                report = process.ended(seconds=30)
            except TimeoutExpired:
                raise AssertionError(f"it does not end: {counts()}, lost {proxy.lost}") from None
        assert_nobody_twice(vendor)
        assert counts() == {"accepted": MESSAGES}
        assert len(taken(vendor)) == MESSAGES
        assert (report["in_doubt"], report["remaining"]) == (0, 0)
    with all_tenants():
        assert list(Run.objects.exclude(state="done").values_list("state", "error")) == []
    return proxy.lost
