"""Phone numbers and the time zones that can be read from them, by Google's libphonenumber data."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections import Counter
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat
from phonenumbers import timezone as number_zones


class NotAPhoneNumber(ValueError):
    """The message says what is wrong, in words for whoever typed it."""


def normalise(text: str, *, region: str | None = None) -> str:
    """Return a number as E.164, e.g. `+4915123456789`.

    Without `region` (ISO 3166, e.g. `DE`) the text must carry its country code: `+…`. Only numbers that
    somebody could have are accepted (right length and an assigned range). Raises `NotAPhoneNumber`.
    """
    return _format(parse(text, region=region))


def parse(text: str, *, region: str | None = None) -> PhoneNumber:
    """Read a number and check that it can exist. Costs about 20 µs. Raises `NotAPhoneNumber`."""
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException as error:
        if error.error_type == NumberParseException.INVALID_COUNTRY_CODE:
            if region is None and not text.lstrip().startswith(("+", "＋")):
                raise NotAPhoneNumber("has no country code: write it as +49…, or name a region") from None
            raise NotAPhoneNumber("begins with a country code that does not exist") from None
        raise NotAPhoneNumber("is not a phone number") from None
    if number.extension:
        raise NotAPhoneNumber("has an extension: only direct numbers can be reached")
    if not phonenumbers.is_valid_number(number):
        raise NotAPhoneNumber("is not a number that exists: digits are missing, too many or unassigned")
    return number


def normalise_with_zone(text: str, *, region: str | None = None) -> tuple[str, str]:
    """Return E.164 and the number's time zone, which is `""` when the number does not settle it."""
    number = parse(text, region=region)
    return _format(number), _one_clock(number_zones.time_zones_for_number(number))


def time_zone_of(phone: str) -> str:
    """Return the IANA time zone of an E.164 number, or `""` when it could be in several.

    Zones that keep the same time (London and Jersey) count as one. For the others a caller that must not
    wake anybody asks `possible_time_zones` and obeys all of them.
    """
    return _one_clock(possible_time_zones(phone))


def possible_time_zones(phone: str) -> tuple[str, ...]:
    """Return every zone an E.164 number may be in; empty when nothing is known of it."""
    zones = number_zones.time_zones_for_number(phonenumbers.parse(phone, None))
    return tuple(zone for zone in zones if is_time_zone(zone))


def is_region(text: str) -> bool:
    return text in phonenumbers.SUPPORTED_REGIONS


def is_time_zone(name: str) -> bool:
    """Say whether this is an IANA zone that `zoneinfo` can load."""
    return name in _zone_names()


@cache
def _zone_names() -> frozenset[str]:
    # Factory and localtime are files in the zone directory and no zones.
    return frozenset(zoneinfo.available_timezones() - {"Factory", "localtime"})


def _format(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


@lru_cache(maxsize=4096)
def _one_clock(zones: tuple[str, ...]) -> str:
    """Reduce zones to one if all of them show the same time throughout this year and the next."""
    known = [zone for zone in zones if is_time_zone(zone)]
    if not known:
        return ""
    first = dt.datetime.now(dt.UTC).replace(month=1, day=1, hour=12)
    moments = [first + dt.timedelta(days=7 * week) for week in range(104)]
    clocks = {tuple(moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in moments) for zone in known}
    # Of equal ones, the zone that most number ranges are in: London rather than Guernsey.
    return max(known, key=_mentions().__getitem__) if len(clocks) == 1 else ""


@cache
def _mentions() -> Counter[str]:
    from phonenumbers.tzdata import TIMEZONE_DATA

    return Counter(zone for zones in TIMEZONE_DATA.values() for zone in zones)
