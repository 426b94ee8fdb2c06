"""What each JSON column of messaging holds: one check for each, which API, admin and actions all ask.

A check returns the value as it is stored and raises `ActionRefused` at its field, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from campaigns.contact_rows import MAX_ATTRIBUTE_KEY, Unusable, check_json
from tenants.errors import ActionRefused

FIELDS: Final = ("name", "phone", "email", "external_id")
"""Columns of a contact that a variable may stand for; the others are `attributes.<key>`."""
MOST_VARIABLES: Final = 100
MOST_COMPONENTS: Final = 20
MOST_PARAMETERS: Final = 20
DEEPEST: Final = 9
"""A carousel's image is that far down in its component."""
LONGEST_DEFAULT: Final = 1_024
LONGEST_COMPONENTS: Final = 20_000
MOST_NAMED: Final = 10_000
"""Contacts that an audience may list one by one; more make a segment."""

COMPONENT_TYPES: Final = ("header", "button", "carousel", "limited_time_offer", "order_status")
"""Meta's, without `body`: the body is made of the variables."""
COMPONENTS_LOOK_LIKE: Final = (
    "Write a list of objects such as "
    '[{"type": "header", "parameters": [{"type": "text", "text": "Spring"}]}], or [] for none.'
)
VARIABLES_LOOK_LIKE: Final = (
    'Write a list such as ["name", {"from": "attributes.city", "default": "you"}], or [].'
)
AUDIENCE_LOOKS_LIKE: Final = (
    'The audience is {"all": true}, {"segment": id} or {"contacts": [external_id, …]}.'
)


def components_of(value: object) -> list[dict[str, Any]]:
    """Check a template's components: Meta's objects, sent as they stand beside the body."""
    if not isinstance(value, list):
        raise _refused("components", COMPONENTS_LOOK_LIKE)
    if len(value) > MOST_COMPONENTS:
        raise _refused("components", f"At most {MOST_COMPONENTS} components; there are {len(value)}.")
    for at, component in enumerate(value, 1):
        _check_component(f"Component {at}", component)
    if len(orjson.dumps(value)) > LONGEST_COMPONENTS:
        raise _refused("components", f"They are longer than {LONGEST_COMPONENTS:,} characters in all.")
    return list(value)


def _check_component(which: str, component: object) -> None:
    if not isinstance(component, Mapping):
        raise _refused("components", f"{which} is no object. {COMPONENTS_LOOK_LIKE}")
    _check_stored("components", which, component)
    kind = component.get("type")
    if kind == "body":
        raise _refused("components", f"{which}: the body is made of the variables; leave it out.")
    if kind not in COMPONENT_TYPES:
        raise _refused("components", f"{which}: its type is one of {', '.join(COMPONENT_TYPES)}.")
    parameters = component.get("parameters", [])
    if not isinstance(parameters, list) or len(parameters) > MOST_PARAMETERS:
        raise _refused("components", f"{which}: its parameters are a list of at most {MOST_PARAMETERS}.")
    for parameter in parameters:
        if not isinstance(parameter, Mapping) or not isinstance(parameter.get("type"), str):
            raise _refused(
                "components", f'{which}: a parameter is an object with its type, e.g. {{"type": "text", …}}.'
            )
    if kind == "button":
        index = component.get("index", 0)
        if isinstance(index, bool) or str(index) not in map(str, range(10)):
            raise _refused("components", f"{which}: a button's index is 0 to 9.")


def variables_of(value: object) -> list[str | dict[str, str]]:
    """Check a template's variables: where the values of {{1}}, {{2}} … come from, in order."""
    if not isinstance(value, list):
        raise _refused("variables", VARIABLES_LOOK_LIKE)
    if len(value) > MOST_VARIABLES:
        raise _refused("variables", f"At most {MOST_VARIABLES} variables; there are {len(value)}.")
    for at, variable in enumerate(value, 1):
        _check_variable(f"Variable {at}", variable)
    return list(value)


def _check_variable(which: str, variable: object) -> None:
    source = variable
    if isinstance(variable, Mapping):
        source, default = variable.get("from"), variable.get("default", "")
        if variable.keys() - {"from", "default"} or not isinstance(default, str):
            raise _refused("variables", f'{which}: write {{"from": source, "default": text}}.')
        if len(default) > LONGEST_DEFAULT:
            raise _refused(
                "variables", f"{which}: its default is longer than {LONGEST_DEFAULT:,} characters."
            )
    key = source.removeprefix("attributes.") if isinstance(source, str) else ""
    named = isinstance(source, str) and (
        source in FIELDS or (source != key and 0 < len(key) <= MAX_ATTRIBUTE_KEY)
    )
    if not named:
        shown = str(source)[:80]
        raise _refused("variables", f"{which}: “{shown}” is not {', '.join(FIELDS)} or attributes.<key>.")
    _check_stored("variables", which, variable)


def audience_of(value: object) -> dict[str, Any]:
    """Check the shape of an audience. Whether segment and contacts exist is the action's to ask."""
    match value:
        case {"all": True, **rest} if not rest:
            pass
        case {"segment": int(segment_id), **rest} if not rest and not isinstance(segment_id, bool):
            if not 0 < segment_id < 2**63:
                raise _refused("audience", f"There is no segment {segment_id}.")
        case {"contacts": list(named), **rest} if not rest and named:
            if len(named) > MOST_NAMED:
                raise _refused(
                    "audience", f"An audience names at most {MOST_NAMED:,} contacts; make a segment of more."
                )
            if not all(isinstance(external_id, str) for external_id in named):
                raise _refused("audience", "Contacts are named by their external_id, a text.")
            for external_id in named:
                _check_stored("audience", "A contact", external_id)
        case _:
            raise _refused("audience", AUDIENCE_LOOKS_LIKE)
    assert isinstance(value, Mapping)
    return dict(value)


def _check_stored(field: str, which: str, value: object) -> None:
    """Refuse what PostgreSQL cannot store or nobody could read: NUL, half characters, too long, too deep."""
    try:
        check_json("it", value, DEEPEST)
    except Unusable as error:
        raise _refused(field, f"{which}: {error}.") from None


def _refused(field: str, reason: str) -> ActionRefused:
    return ActionRefused(reason, field=field)
