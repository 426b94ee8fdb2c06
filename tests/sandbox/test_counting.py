"""The sandbox's counts are exact: other tests stand on them."""

from __future__ import annotations

import random

from sandbox.counting import Accepted, Number, Window


def test_the_worst_second_is_the_most_in_any_second():
    dice = random.Random(7)
    for _ in range(20):
        times = sorted(dice.uniform(0, 5) for _ in range(dice.randrange(1, 200)))
        window = Window()
        for at in times:
            window.add(at)
        assert window.worst == max(sum(1 for other in times if at - 1.0 < other <= at) for at in times)


def test_two_arrivals_exactly_a_second_apart_share_no_second():
    window = Window()
    assert [window.add(at) for at in (10.0, 10.5, 11.0, 11.25)] == [1, 2, 2, 3]
    assert window.within(99.0) == 0
    assert window.worst == 3


def test_repeated_recipients_and_attempts_are_told_apart():
    number = Number()
    for to, attempt in (("1", "a"), ("1", "b"), ("2", "c"), ("3", "c"), ("4", ""), ("5", "")):
        number.arrive(1.0)
        number.accept(Accepted(to, attempt, "w", "offer", 1.0))
    counted = number.as_json()
    assert (counted["arrivals"], counted["accepted"], counted["recipients"]) == (6, 6, 5)
    assert (counted["recipients_repeated"], counted["attempts_repeated"]) == (1, 1)
