"""Phone numbers become E.164 or are refused in words, and tell their time zone only when it is certain."""

import pytest

from campaigns import phones


@pytest.mark.parametrize(
    ("text", "region", "phone"),
    [
        ("+49 1512 / 345-6789", None, "+4915123456789"),
        ("0151 23456789", "DE", "+4915123456789"),
        ("+1 (415) 555-0123", "DE", "+14155550123"),
        ("+39 06 698 12345", None, "+390669812345"),  # Italy keeps its zero
        ("+5491123452490", None, "+5491123452490"),  # Argentina's mobiles keep their nine
        ("+44 (0)7400 121185", None, "+447400121185"),
    ],
)
def test_numbers_become_e164(text: str, region: str | None, phone: str) -> None:
    assert phones.normalise(text, region=region) == phone
    assert phones.normalise(phone) == phone


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0151 23456789", "has no country code"),
        ("4915123456789", "has no country code"),
        ("+99912345678", "country code that does not exist"),
        ("+49151", "is not a number that exists"),
        ("+491512345678901234", "is not a phone number|is not a number that exists"),
        ("+14155550123 ext. 5", "has an extension"),
        ("4.91E+11", "is not a phone number"),
        ("call me", "is not a phone number"),
        ("9" * 300, "is not a phone number"),
    ],
)
def test_others_are_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(phones.NotAPhoneNumber, match=said):
        phones.normalise(text)


@pytest.mark.parametrize(
    ("phone", "zone"),
    [
        ("+4915123456789", "Europe/Berlin"),
        ("+12025550123", "America/New_York"),
        ("+447400121185", "Europe/London"),  # and Jersey, Guernsey, Man: the same clock
        ("+393123450616", "Europe/Rome"),
        ("+79123451352", ""),  # from Kaliningrad to Kamchatka
        ("+18005550199", ""),
    ],
)
def test_the_time_zone_is_told_only_when_there_is_one_clock(phone: str, zone: str) -> None:
    assert phones.time_zone_of(phone) == zone
    assert phones.normalise_with_zone(phone) == (phone, zone)
    assert all(phones.is_time_zone(name) for name in phones.possible_time_zones(phone))
    assert len(phones.possible_time_zones(phone)) > 1 or zone


@pytest.mark.parametrize(
    "name", ["", "Factory", "localtime", "Mars/Olympus", "../etc/passwd", "europe/berlin"]
)
def test_what_is_no_time_zone_is_known(name: str) -> None:
    assert not phones.is_time_zone(name)
