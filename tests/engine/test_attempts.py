"""The UUID of an attempt leads back to its row."""

from uuid import RFC_4122, uuid4

import pytest

from engine.store.attempts import new_attempt, number_of, row_of


@pytest.mark.parametrize("row", [0, 1, 4095, 4096, 123_456_789, (1 << 60) - 1])
def test_an_attempt_carries_its_row_and_its_number(row: int) -> None:
    attempt = new_attempt(row, 3)
    assert (row_of(attempt), number_of(attempt)) == (row, 3)
    assert (attempt.version, attempt.variant) == (8, RFC_4122)


def test_two_attempts_at_a_row_differ() -> None:
    assert len({new_attempt(7, 1) for _ in range(1000)}) == 1000


def test_a_foreign_uuid_names_no_row() -> None:
    assert row_of(uuid4()) is None


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        new_attempt(1 << 60, 1)
