"""Texts that the vendor has approved."""

from __future__ import annotations

import re
from typing import Any

from django.db import IntegrityError, transaction

from messaging.models import MessageTemplate
from messaging.schemas import components_of, variables_of
from tenants.errors import ActionRefused

_PLACEHOLDER = re.compile(r"\{\{\s*([0-9]{1,4})\s*\}\}")
TEMPLATE_FIELDS = frozenset({"category", "body", "variables", "components", "state", "vendor_id"})


@transaction.atomic
def create_template(
    *,
    tenant_id: int,
    name: str,
    body: str,
    language: str = "en_US",
    category: str = MessageTemplate.Category.MARKETING,
    variables: object = None,
    components: object = None,
    state: str = MessageTemplate.State.APPROVED,
    vendor_id: str = "",
) -> MessageTemplate:
    """Add a template as the vendor knows it. `variables` say where {{1}}, {{2}} … of the body come from."""
    template = MessageTemplate(
        tenant_id=tenant_id,
        name=name,
        language=language,
        category=category,
        body=body,
        variables=[] if variables is None else variables,
        components=[] if components is None else components,
        state=state,
        vendor_id=vendor_id,
    )
    _check(template)
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError as error:
        if "template_once" in str(error):
            raise ActionRefused(
                f"There is a template “{name}” in {language} already.", field="name"
            ) from None
        raise
    return template


@transaction.atomic
def update_template(*, template_id: int, **changes: Any) -> MessageTemplate:
    """Change what we know of a template. Broadcasts launched before keep what they were launched with; its
    state alone counts for them, at once."""
    if unknown := changes.keys() - TEMPLATE_FIELDS:
        raise ActionRefused(
            f"A template's {', '.join(sorted(unknown))} cannot be changed: the vendor knows it by them.",
            field=min(unknown),
        )
    template: MessageTemplate | None = (
        MessageTemplate.objects.select_for_update(no_key=True).filter(pk=template_id).first()
    )
    if template is None:
        raise ActionRefused(f"There is no template {template_id}.")
    for name, value in changes.items():
        setattr(template, name, value)
    _check(template)
    if changes:
        template.save(update_fields=list(changes))
    return template


def _check(template: MessageTemplate) -> None:
    template.variables = variables_of(template.variables)
    template.components = components_of(template.components)
    numbers = {int(number) for number in _PLACEHOLDER.findall(template.body)}
    if numbers != set(range(1, len(template.variables) + 1)):
        shown = ", ".join(f"{{{{{number}}}}}" for number in sorted(numbers)) or "no placeholders"
        raise ActionRefused(
            f"The body has {shown}, and there are {len(template.variables)} variables: "
            "each needs its place, from {{1}} on.",
            field="variables",
        )
    for value, choices, field in (
        (template.category, MessageTemplate.Category, "category"),
        (template.state, MessageTemplate.State, "state"),
    ):
        if value not in choices.values:
            raise ActionRefused(f"“{value}” is not one of {', '.join(choices.values)}.", field=field)
