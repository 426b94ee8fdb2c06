"""The sandbox's counts are exact: other tests stand on them."""

from __future__ import annotations

import random
import socket
import sys
import time

import pytest

from sandbox.counting import Accepted, Number, Window
from sandbox.http import arrival, note_arrivals


def test_the_worst_second_is_the_most_in_any_second():
    dice = random.Random(7)
    for _ in range(20):
        times = sorted(dice.uniform(0, 30) for _ in range(dice.randrange(1, 900)))
        late = sorted(times, key=lambda at: at + dice.uniform(0, 0.9))  # told out of order
        window = Window()
        for at in late:
            window.add(at)
        assert window.worst == max(sum(1 for other in times if at - 1.0 < other <= at) for at in times)


def test_two_arrivals_exactly_a_second_apart_share_no_second():
    window = Window()
    for at, most in ((10.0, 0), (10.5, 1), (11.0, 1), (11.25, 2)):
        assert window.most_with(at) == most
        window.add(at)
    assert window.most_with(99.0) == 0
    assert window.worst == 3


def test_a_limit_holds_in_every_second_whatever_the_order():
    dice = random.Random(8)
    for _ in range(20):
        times = [dice.uniform(0, 20) for _ in range(2_000)]
        times.sort(key=lambda at: at + dice.uniform(0, 0.9))
        window = Window()
        taken = []
        for at in times:
            if window.most_with(at) < 40:
                window.add(at)
                taken.append(at)
        assert window.worst == 40
        assert max(sum(1 for other in taken if at - 1.0 < other <= at) for at in taken) == 40


def test_repeated_recipients_and_attempts_are_told_apart():
    number = Number()
    for to, attempt in (("1", "a"), ("1", "b"), ("2", "c"), ("3", "c"), ("4", ""), ("5", "")):
        number.arrive(1.0)
        number.accept(Accepted(to, attempt, "w", "offer", 1.0))
    counted = number.as_json()
    assert (counted["arrivals"], counted["accepted"], counted["recipients"]) == (6, 6, 5)
    assert (counted["recipients_repeated"], counted["attempts_repeated"]) == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel notes arrivals on a stream")
def test_an_arrival_is_when_the_bytes_came_and_not_when_they_were_read():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        note_arrivals(listener)
        with socket.create_connection(listener.getsockname()) as client:
            reader, _ = listener.accept()
            with reader:
                before = time.monotonic()
                client.sendall(b"x")
                after = time.monotonic()
                while time.monotonic() < after + 0.2:  # a server that is busy elsewhere
                    sum(range(1_000))
                _, notes, _, _ = reader.recvmsg(10, 64)
                assert before - 0.01 <= arrival(notes) <= after + 0.01


def test_without_the_kernels_note_an_arrival_is_now():
    before = time.monotonic()
    assert before <= arrival([]) <= time.monotonic()
