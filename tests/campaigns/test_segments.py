"""Rules choose whom a reader of the rules would choose, and wrong rules say where they are wrong."""

import random
import re
from decimal import Decimal
from typing import Any

import pytest

from campaigns.models import Cohort, CohortMember, Contact, Segment, SocialAccount
from campaigns.segments import MAX_DEPTH, MAX_RULES, RulesRefused, check_rules
from tenants.models import Tenant
from tenants.scope import tenant_scope

ABSENT = object()


def rule(field: str, op: str, value: Any = ABSENT) -> dict[str, Any]:
    return {"field": field, "op": op} | ({} if value is ABSENT else {"value": value})


def holds(rules: dict[str, Any], contact: dict[str, Any]) -> bool:
    """The rules once more, in plain Python over plain dicts: what the SQL is held against."""
    if not rules:
        return True
    if "all" in rules:
        return all(holds(part, contact) for part in rules["all"])
    if "any" in rules:
        return any(holds(part, contact) for part in rules["any"])
    if "not" in rules:
        return not holds(rules["not"], contact)
    field, op, value = rules["field"], rules["op"], rules.get("value")
    opposite = {"ne": "eq", "not_in": "in", "missing": "exists"}
    if op in opposite:
        return not holds({**rules, "op": opposite[op]}, contact)
    if field in ("cohort", "platform"):
        mine = contact[field]
        return bool(mine) if op == "exists" else bool(mine & set(value if op == "in" else [value]))
    is_attribute = field.startswith("attributes.")
    stored = contact["attributes"].get(field.removeprefix("attributes.")) if is_attribute else contact[field]
    if op == "exists":
        return stored is not None if is_attribute else stored != ""
    if op == "in":
        return any(holds({**rules, "op": "eq", "value": item}, contact) for item in value)
    return compares(op, stored, value)


def compares(op: str, stored: Any, value: Any) -> bool:
    if isinstance(stored, list):
        return op == "contains" and value in stored
    if stored is None:
        return False
    text = str(stored).lower() if isinstance(stored, bool) else str(stored)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?", text):
            return False
        left: Any = Decimal(text)
        right: Any = Decimal(str(value))
    else:
        left, right = text, str(value).lower() if isinstance(value, bool) else value
    match op:
        case "eq":
            return bool(left == right)
        case "gt":
            return bool(left > right)
        case "gte":
            return bool(left >= right)
        case "lt":
            return bool(left < right)
        case "lte":
            return bool(left <= right)
        case "contains":
            return right in left
        case "starts_with":
            return bool(left.startswith(right))
    raise AssertionError(op)


TEXTS = [
    "Berlin",
    "berlin",
    "Ber",
    "Zoë",
    "Ünal",
    "",
    "30",
    "-2.50",
    "007",
    "true",
    "a%b_c\\'\"",
    "{0}",
    "\U0001f600",
]
NUMBERS = [30, 7, -2.5, 0, 12.25, 10**12]
KEYS = ["city", "age", "a.b", "it's", "%s", "{1}"]


def random_contact(dice: random.Random, cohorts: list[int]) -> dict[str, Any]:
    values = [*TEXTS, *NUMBERS, True, False, None, ["Berlin", "30"], []]
    return {
        "phone": dice.choice(["", "+4915123456789", "+14155550123"]),
        "name": dice.choice(TEXTS),
        "attributes": {key: dice.choice(values) for key in KEYS if dice.random() < 0.7},
        "cohort": {cohort for cohort in cohorts if dice.random() < 0.3},
        "platform": {name for name in ("instagram", "tiktok") if dice.random() < 0.4},
    }


def random_rule(dice: random.Random, cohorts: list[int], depth: int = 3) -> dict[str, Any]:
    if depth and dice.random() < 0.5:
        parts = [random_rule(dice, cohorts, depth - 1) for _ in range(dice.randint(1, 3))]
        return dice.choice([{"all": parts}, {"any": parts}, {"not": parts[0]}])
    field = dice.choice(["phone", "name", "cohort", "platform", *(f"attributes.{key}" for key in KEYS * 2)])
    if field in ("cohort", "platform"):
        pool: list[Any] = cohorts if field == "cohort" else ["instagram", "tiktok", "youtube"]
        ops = ["eq", "ne", "in", "not_in", "exists", "missing"]
    else:
        pool = [*TEXTS, *NUMBERS, True] if field.startswith("attributes") else TEXTS
        ops = ["eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "contains", "starts_with"]
        ops += ["exists", "missing"]
    op = dice.choice(ops)
    if op in ("exists", "missing"):
        return rule(field, op)
    if op in ("in", "not_in"):
        return rule(field, op, dice.sample(pool, dice.randint(1, min(3, len(pool)))))
    if op in ("contains", "starts_with"):
        pool = [value for value in pool if isinstance(value, str)]
    elif op in ("gt", "gte", "lt", "lte"):
        pool = [value for value in pool if not isinstance(value, bool)]
    return rule(field, op, dice.choice(pool))


@pytest.mark.parametrize("seed", range(4))
def test_compiled_rules_choose_what_python_would_choose(acme: Tenant, globex: Tenant, seed: int) -> None:
    dice = random.Random(seed)
    with tenant_scope(globex.pk):
        Contact.objects.create(tenant=globex, external_id="theirs", name="Berlin")
    with tenant_scope(acme.pk):
        cohorts = [Cohort.objects.create(tenant=acme, name=f"cohort {number}") for number in range(3)]
        ids = [cohort.pk for cohort in cohorts]
        people: dict[str, dict[str, Any]] = {}
        for number in range(60):
            person = people[f"c{number}"] = random_contact(dice, ids)
            own = {name: person[name] for name in ("phone", "name", "attributes")}
            contact = Contact.objects.create(tenant=acme, external_id=f"c{number}", **own)
            for cohort in person["cohort"]:
                CohortMember.objects.create(tenant=acme, cohort_id=cohort, contact=contact)
            for name in person["platform"]:
                SocialAccount.objects.create(
                    tenant=acme, contact=contact, platform=name, username=f"u{number}"
                )
        chosen_some = 0
        for _ in range(150):
            rules = random_rule(dice, ids)
            expected = {key for key, person in people.items() if holds(rules, person)}
            found = set(Contact.objects.matching(rules).values_list("external_id", flat=True))
            assert found == expected, rules
            chosen_some += 0 < len(expected) < len(people)
        assert chosen_some > 50


def test_no_rules_choose_everybody_of_the_tenant_in_one_query(
    acme: Tenant, globex: Tenant, django_assert_num_queries: Any
) -> None:
    for tenant in (acme, globex):
        with tenant_scope(tenant.pk):
            Contact.objects.create(tenant=tenant, external_id=tenant.slug)
    with tenant_scope(acme.pk):
        segment = Segment.objects.create(tenant=acme, name="all")
        with django_assert_num_queries(1):
            assert [contact.external_id for contact in Contact.objects.in_segment(segment)] == ["acme"]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("2026-01-02", {"new"}),
        ("2026-01-01T00:00:00Z", {"new", "old"}),
        ("2026-01-02T01:00:00+01:00", {"new"}),
    ],
)
def test_times_are_compared_as_times(acme: Tenant, value: str, chosen: set[str]) -> None:
    with tenant_scope(acme.pk):
        for name, moment in (("old", "2026-01-01T12:00Z"), ("new", "2026-01-02T00:00Z")):
            Contact.objects.create(tenant=acme, external_id=name, created_at=moment)
        found = Contact.objects.matching(rule("created_at", "gte", value))
        assert set(found.values_list("external_id", flat=True)) == chosen


@pytest.mark.parametrize(
    "attack", ["x' OR '1'='1", '"; DROP TABLE campaigns_contact; --', "%(tenant)s", "{0}", "\\", "a' ->> 'b"]
)
def test_what_a_rule_says_is_never_sql(acme: Tenant, attack: str) -> None:
    with tenant_scope(acme.pk):
        Contact.objects.create(tenant=acme, external_id="plain", name="x", attributes={"k": "x"})
        Contact.objects.create(
            tenant=acme, external_id="odd", name=attack, attributes={attack: attack, "k": attack}
        )
        for field in ("name", "attributes.k", f"attributes.{attack}"):
            for op in ("eq", "contains", "starts_with", "gte"):
                found = Contact.objects.matching(
                    {"all": [rule(field, op, attack), rule("external_id", "eq", "odd")]}
                )
                assert found.count() == 1, (field, op)
            assert Contact.objects.matching(rule(field, "eq", attack)).count() == 1


DEEP: dict[str, Any] = {"field": "name", "op": "exists"}
for _ in range(MAX_DEPTH):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([], "rules: must be an object"),
        ({"and": []}, "rules: must have all, any, not, or field with op and value (has: and)"),
        ({"all": []}, "rules.all: must be a list of at least one rule"),
        ({"all": {}}, "rules.all: must be a list of at least one rule"),
        ({"any": [rule("name", "exists"), 5]}, "rules.any[1]: must be an object"),
        ({"all": [{"not": rule("city", "eq", "x")}]}, "rules.all[0].not.field: must be one of external_id, "),
        (rule("attributes.", "exists"), "rules.field: an attribute's key has 1 to 100 characters"),
        (rule("attributes.<key>", "like", "x"), "rules.op: attributes.<key> takes one of eq, ne, "),
        (rule("created_at", "contains", "x"), "rules.op: created_at takes one of gt, gte, lt, lte"),
        (rule("created_at", "gt", "soon"), "rules.value: must be a date or a time"),
        (rule("created_at", "gt", "2026-02-31"), "rules.value: must be a date or a time"),
        (rule("name", "eq"), "rules: eq needs a value"),
        (rule("name", "exists", "x"), "rules.value: exists takes no value"),
        (rule("name", "eq", 5), "rules.value: must be a text"),
        (rule("name", "in", "abc"), "rules.value: must be a list of 1 to 1000 values"),
        (rule("name", "in", ["a", None]), "rules.value[1]: must be a text"),
        (rule("attributes.a", "gt", True), "rules.value: gt needs a number or a text"),
        (rule("attributes.a", "contains", 5), "rules.value: contains needs a text"),
        (rule("attributes.a", "eq", float("nan")), "rules.value: must be a number"),
        (rule("attributes.a", "eq", {"b": 1}), "rules.value: must be a text, a number, true or false"),
        (rule("attributes.a", "eq", "a\x00"), "rules.value: must be a text"),
        (rule("attributes.\ud800", "exists"), "rules.field: an attribute's key"),
        (rule("cohort", "eq", "7"), "rules.value: must be the id of a cohort"),
        (rule("cohort", "eq", True), "rules.value: must be the id of a cohort"),
        (rule("platform", "in", ["orkut"]), "rules.value[0]: must be one of facebook, "),
        ({"field": ["name"], "op": "eq", "value": "x"}, "rules.field: must be one of"),
        ({"field": "name", "op": ["eq"], "value": "x"}, "rules.op: name takes one of"),
        (DEEP, "rules" + ".not" * MAX_DEPTH + f": nested more than {MAX_DEPTH} deep"),
        ({"any": [rule("name", "exists")] * MAX_RULES}, f"rules: more than {MAX_RULES} rules"),
    ],
)
def test_wrong_rules_say_where_they_are_wrong(rules: Any, said: str) -> None:
    with pytest.raises(RulesRefused, match=re.escape(said)) as refused:
        check_rules(rules)
    assert refused.value.field == "rules"
