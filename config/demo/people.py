"""Made-up people with real-shaped data: names, cities and mobile numbers of a dozen countries.

The seed is fixed, so that the same people come back on every run. Nobody is called: the numbers only
ever reach the sandbox.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

SEED: Final = 20_261_121
# Region, the locale that names its people, and how many of a hundred live there.
PLACES: Final = (
    ("DE", "de_DE", 22),
    ("GB", "en_GB", 18),
    ("FR", "fr_FR", 14),
    ("ES", "es_ES", 12),
    ("IT", "it_IT", 10),
    ("NL", "nl_NL", 7),
    ("PL", "pl_PL", 6),
    ("AT", "de_AT", 4),
    ("SE", "sv_SE", 4),
    ("BR", "pt_BR", 3),
)
COLUMNS: Final = (
    "external_id",
    "name",
    "email",
    "phone",
    "attributes.city",
    "attributes.plan",
    "attributes.member_since",
    "instagram",
)


def people(count: int, *, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield contacts as the columns of a CSV file, every phone number valid and used once."""
    from faker import Faker

    dice = random.Random(f"{SEED} {prefix}")
    fakers = {region: Faker(locale) for region, locale, _ in PLACES}
    for fake in fakers.values():
        fake.seed_instance(f"{SEED} {prefix}")
    regions = [region for region, _, _ in PLACES]
    weights = [weight for _, _, weight in PLACES]
    taken: set[str] = set()
    for number in range(1, count + 1):
        region = dice.choices(regions, weights)[0]
        fake = fakers[region]
        first, last = fake.first_name(), fake.last_name()
        handle = f"{fake.ascii_email().partition('@')[0]}{number}"
        yield {
            "external_id": f"{prefix}-{number:05}",
            "name": f"{first} {last}",
            "email": f"{handle}@example.com",
            "phone": mobile(region, dice, taken),
            "attributes.city": fake.city(),
            "attributes.plan": dice.choices(("free", "plus", "family"), (60, 30, 10))[0],
            "attributes.member_since": str(date(2019, 1, 1) + timedelta(dice.randrange(2800))),
            "instagram": handle if dice.random() < 0.4 else "",
        }


def mobile(region: str, dice: random.Random, taken: set[str]) -> str:
    """Make up a mobile number of a region, in E.164, that is none of `taken`; add it there."""
    example = phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)
    assert example is not None
    assert example.national_number is not None
    while True:
        digits = list(str(example.national_number))
        for place in range(3, len(digits)):
            digits[place] = str(dice.randint(0, 9))
        made = phonenumbers.PhoneNumber(
            country_code=example.country_code, national_number=int("".join(digits))
        )
        text = phonenumbers.format_number(made, PhoneNumberFormat.E164)
        if text not in taken and phonenumbers.number_type(made) == PhoneNumberType.MOBILE:
            taken.add(text)
            return text


def write_csv(path: Path, count: int, *, prefix: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(people(count, prefix=prefix))
