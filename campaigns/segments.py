"""Rules that choose contacts, checked and compiled to one query.

    {"all": [{"field": "attributes.city", "op": "in", "value": ["Berlin", "Lyon"]},
             {"not": {"field": "cohort", "op": "eq", "value": 7}},
             {"any": [{"field": "phone", "op": "exists"},
                      {"field": "platform", "op": "eq", "value": "tiktok"}]}]}

`{}` chooses everybody. Fields are a contact's own (`FIELDS`), `attributes.<key>`, `cohort` (an id) and
`platform` (where the contact has an account).

The value says how to compare: a number compares numbers, and texts that look like one (a CSV's `30`);
a text compares texts, and a stored number as it is written. Text is compared exactly, code point by code
point. A condition on something absent is false, so its `not` is true: each rule splits contacts in two.

Everything a rule says reaches PostgreSQL as a parameter. jsonb operators are not leakproof, so attributes
are never searched by index under row-level security: a segment reads its tenant's contacts once.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.db.models import BooleanField, DecimalField, Field, Func, Q, QuerySet, TextField, Value
from django.db.models.expressions import Exists, Expression, F, OuterRef
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.utils.dateparse import parse_date, parse_datetime

from campaigns.contact_rows import MAX_ATTRIBUTE_KEY, PLATFORMS
from tenants.errors import ActionRefused

if TYPE_CHECKING:
    from campaigns.models import Segment

MAX_DEPTH = 8
MAX_RULES = 200
MAX_VALUES = 1_000
MAX_TEXT = 500

TEXT_FIELDS = ("external_id", "phone", "email", "name", "timezone")
TIME_FIELDS = ("created_at", "updated_at")
EQUALITY = ("eq", "ne", "in", "not_in")
ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
TEXT_OPS = ("contains", "starts_with")
PRESENCE = ("exists", "missing")
FIELDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TEXT_FIELDS, (*EQUALITY, *ORDER, *TEXT_OPS, *PRESENCE)),
    **dict.fromkeys(TIME_FIELDS, tuple(ORDER)),
    "cohort": (*EQUALITY, *PRESENCE),
    "platform": (*EQUALITY, *PRESENCE),
    "attributes.<key>": (*EQUALITY, *ORDER, *TEXT_OPS, *PRESENCE),
}
NEGATED = {"ne": "eq", "not_in": "in", "missing": "exists"}


class RulesRefused(ActionRefused):
    """The rules are wrong, and the message begins with where: `rules.all[1].op: …`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}", field="rules")


def compile_segment(rules: object) -> Q:
    """Return the condition that these rules are, over `Contact`. Raises `RulesRefused`."""
    if rules == {}:
        return Q()
    return Q(_Compiler().compile(rules, "rules", 1))


def check_rules(rules: object) -> None:
    """Raise `RulesRefused` for rules that cannot be compiled."""
    compile_segment(rules)


def contacts_of(segment: Segment) -> QuerySet[Any]:
    """Return the segment's contacts as they are now: of its own tenant, in every scope."""
    from campaigns.models import Contact

    return Contact.objects.filter(compile_segment(segment.rules), tenant_id=segment.tenant_id)


class _Compiler:
    def __init__(self) -> None:
        self.rules = 0

    def compile(self, rule: object, path: str, depth: int) -> Q:
        self.rules += 1
        if self.rules > MAX_RULES:
            raise RulesRefused("rules", f"more than {MAX_RULES} rules")
        if depth > MAX_DEPTH:
            raise RulesRefused(path, f"nested more than {MAX_DEPTH} deep")
        if not isinstance(rule, Mapping):
            raise RulesRefused(path, "must be an object")
        match sorted(map(str, rule)):
            case ["all"] | ["any"] as key:
                parts = rule[key[0]]
                path = f"{path}.{key[0]}"
                if not isinstance(parts, list) or not parts:
                    raise RulesRefused(path, "must be a list of at least one rule")
                compiled = [self.compile(part, f"{path}[{at}]", depth + 1) for at, part in enumerate(parts)]
                return Q(*compiled, _connector=Q.AND if key == ["all"] else Q.OR)
            case ["not"]:
                return ~Q(self.compile(rule["not"], f"{path}.not", depth + 1))
            case ["field", "op"] | ["field", "op", "value"]:
                return _condition(rule, path)
            case keys:
                raise RulesRefused(
                    path, f"must have all, any, not, or field with op and value (has: {', '.join(keys)[:80]})"
                )


def _condition(rule: Mapping[str, Any], path: str) -> Q:
    field, op = rule["field"], rule["op"]
    key = _attribute(field, f"{path}.field")
    known = FIELDS["attributes.<key>" if key is not None else field]
    if op not in known:
        raise RulesRefused(f"{path}.op", f"{field} takes one of {', '.join(known)}")
    if op in PRESENCE:
        if "value" in rule:
            raise RulesRefused(f"{path}.value", f"{op} takes no value")
        value = None
    elif "value" not in rule:
        raise RulesRefused(path, f"{op} needs a value")
    else:
        value = rule["value"]
    if op in NEGATED:
        return ~_positive(field, key, NEGATED[op], value, f"{path}.value")
    return _positive(field, key, op, value, f"{path}.value")


def _positive(field: str, key: str | None, op: str, value: Any, path: str) -> Q:
    if op == "in":
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
            raise RulesRefused(path, f"must be a list of 1 to {MAX_VALUES} values")
        values = [_value(field, key, item, f"{path}[{at}]") for at, item in enumerate(value)]
    else:
        values = [] if op == "exists" else [_value(field, key, value, path)]
    if op in TEXT_OPS and not isinstance(values[0], str):
        raise RulesRefused(path, f"{op} needs a text")
    if op in ORDER and isinstance(values[0], bool):
        raise RulesRefused(path, f"{op} needs a number or a text")
    if field in ("cohort", "platform"):
        return _membership(field, values)
    if key is not None:
        return _attribute_condition(key, op, values)
    if op == "exists":
        return ~Q(**{field: ""})
    if op in EQUALITY:
        return Q(**{f"{field}__in": values})
    return _compared(op, F(field), values[0])


def _attribute(field: object, path: str) -> str | None:
    """Return the key of an attribute, None for another field."""
    if isinstance(field, str) and field.startswith("attributes."):
        key = field.removeprefix("attributes.")
        if not key or len(key) > MAX_ATTRIBUTE_KEY or not _storable(key):
            raise RulesRefused(path, f"an attribute's key has 1 to {MAX_ATTRIBUTE_KEY} characters")
        return key
    if not isinstance(field, str) or field not in FIELDS or field == "attributes.<key>":
        raise RulesRefused(path, f"must be one of {', '.join(FIELDS)}")
    return None


def _value(field: str, key: str | None, value: Any, path: str) -> Any:
    """Check a value and return it in the type that its field compares."""
    if field == "cohort":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
            raise RulesRefused(path, "must be the id of a cohort")
        return value
    if field == "platform":
        if value not in PLATFORMS:
            raise RulesRefused(path, f"must be one of {', '.join(PLATFORMS)}")
        return value
    if field in TIME_FIELDS:
        return _moment(value, path)
    if key is not None and isinstance(value, bool):
        return value
    if key is not None and isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) >= 1e30:
            raise RulesRefused(path, "must be a number of at most 30 digits")
        return value
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _storable(value):
        wanted = "a text, a number, true or false" if key is not None else "a text"
        raise RulesRefused(path, f"must be {wanted} (at most {MAX_TEXT} characters)")
    return value


def _moment(value: Any, path: str) -> dt.datetime:
    try:
        moment = parse_datetime(value) if isinstance(value, str) else None
        if moment is None and isinstance(value, str) and (day := parse_date(value)):
            moment = dt.datetime.combine(day, dt.time())
    except ValueError:
        moment = None
    if moment is None:
        raise RulesRefused(path, "must be a date or a time such as 2026-11-22T18:00:00Z")
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _membership(field: str, values: list[Any]) -> Q:
    """The contact is in one of these cohorts, or on one of these platforms; in any, if none is given."""
    from campaigns.models import CohortMember, SocialAccount  # which import this module's QuerySets

    # Unscoped, since the outer contact is in scope and its rows are of the same tenant by constraint.
    rows: QuerySet[Any] = (CohortMember if field == "cohort" else SocialAccount)._base_manager.all()
    if values:
        rows = rows.filter(**{f"{field}__in": values})
    return Q(Exists(rows.filter(contact=OuterRef("pk"))))


def _attribute_condition(key: str, op: str, values: list[Any]) -> Q:
    plain, document = KeyTextTransform(key, "attributes"), KeyTransform(key, "attributes")
    if op == "exists":
        return Q(_Sql("{0} IS NOT NULL", plain))
    scalar = _Sql(SCALAR, document, plain, output_field=TextField())
    condition = Q()
    for value in values:
        if isinstance(value, bool):
            condition |= _compared(op, scalar, "true" if value else "false")
        elif isinstance(value, str):
            condition |= _compared(op, scalar, value)
            if op == "contains":
                condition |= Q(_Sql(IN_LIST, document, Value(value)))
        else:
            number = _Sql(AS_NUMBER, scalar, output_field=DecimalField())
            condition |= Q(
                _Sql(f"({{0}} {ORDER.get(op, '=')} {{1}}::numeric) IS TRUE", number, Value(str(value)))
            )
    return condition


def _compared(op: str, left: Expression | F, value: str | dt.datetime) -> Q:
    """Compare by PostgreSQL's own operators; what is absent does not hold."""
    if op == "contains":
        return Q(_Sql("(strpos({0}, {1}) > 0) IS TRUE", left, Value(value)))
    if op == "starts_with":
        return Q(_Sql("starts_with({0}, {1}) IS TRUE", left, Value(value)))
    # Code points, whatever the database's own collation.
    collate = ' COLLATE "C"' if isinstance(value, str) else ""
    return Q(_Sql(f"({{0}}{collate} {ORDER.get(op, '=')} {{1}}) IS TRUE", left, Value(value)))


SCALAR = "CASE WHEN jsonb_typeof({0}) IN ('string', 'number', 'boolean') THEN {1} END"
IN_LIST = "CASE WHEN jsonb_typeof({0}) = 'array' THEN {0} ? {1} ELSE false END"
# Digits are counted before they are read: what looks like a number and is none must not fail the query.
AS_NUMBER = r"CASE WHEN {0} ~ '^-?[0-9]{1,30}(\.[0-9]{1,30})?$' THEN {0}::numeric END"


class _Sql(Func):
    """A piece of SQL with its arguments where `{0}`, `{1}` … stand, each as often as needed."""

    def __init__(self, template: str, *arguments: Any, output_field: Field[Any, Any] | None = None) -> None:
        super().__init__(*arguments, output_field=output_field or BooleanField())
        self.sql = template

    def as_sql(  # type: ignore[override]
        self, compiler: Any, connection: Any, **_: Any
    ) -> tuple[str, list[Any]]:
        compiled = [compiler.compile(argument) for argument in self.source_expressions]
        parts, params = [], []
        for at, part in enumerate(re.split(r"\{(\d)\}", self.sql)):
            if at % 2:
                sql, own = compiled[int(part)]
                parts.append(f"({sql})")
                params.extend(own)
            else:
                parts.append(part)
        return "".join(parts), params
