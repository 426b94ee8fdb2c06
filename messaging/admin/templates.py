"""Templates, with their text as its reader sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import mark_safe
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from messaging.actions import create_template, update_template
from messaging.models import MessageTemplate
from messaging.schemas import components_of, variables_of
from tenants.admin_base import TenantModelAdmin, TenantModelForm, badge
from tenants.errors import ActionRefused

PLACEHOLDER = re.compile(r"\{\{\s*(\d+)\s*\}\}")
BOLD, ITALIC = re.compile(r"(?<!\w)\*(\S[^*\n]*)\*(?!\w)"), re.compile(r"(?<!\w)_(\S[^_\n]*)_(?!\w)")


class TemplateForm(TenantModelForm):
    def clean_variables(self) -> Any:
        return self._checked("variables", variables_of)

    def clean_components(self) -> Any:
        return self._checked("components", components_of)

    def _checked(self, name: str, check: Callable[[object], Any]) -> Any:
        """Check what was typed as the API does, and tell a refusal at its field. Nothing typed is none."""
        given = self.cleaned_data[name]
        try:
            return check([] if given is None else given)
        except ActionRefused as refusal:
            raise forms.ValidationError(refusal.reason) from None


@admin.register(MessageTemplate)
class MessageTemplateAdmin(TenantModelAdmin):
    form = TemplateForm
    list_display = ("name", badge(), "language", "category", "variables_text", "quality", "start")
    list_filter = (("state", ChoicesDropdownFilter), ("category", ChoicesDropdownFilter))
    search_fields = ("name",)
    ordering = ("name", "language", "id")
    fieldsets = (
        (None, {"fields": (("name", "language"), ("category", "state"), "body", "variables", "preview")}),
        ("Beside the text", {"fields": ("components", "vendor_id", "quality")}),
    )
    readonly_fields = ("quality", "preview")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        fixed = ["name", "language"] if obj else []  # the vendor knows it by them
        return [*fixed, *super().get_readonly_fields(request, obj)]

    def save_model(self, request: HttpRequest, obj: MessageTemplate, form: Any, change: bool) -> None:
        names = ("category", "body", "variables", "components", "state", "vendor_id")
        given = {name: getattr(obj, name) for name in names}
        if change:
            update_template(template_id=obj.pk, **given)
        else:
            made = create_template(tenant_id=obj.tenant_id, name=obj.name, language=obj.language, **given)
            obj.pk = made.pk

    @display(description="variables")
    def variables_text(self, template: MessageTemplate) -> str:
        return ", ".join(map(source, template.variables)) or "none"

    @display(description="text")
    def start(self, template: MessageTemplate) -> str:
        return template.body if len(template.body) <= 60 else f"{template.body[:60]}…"

    @display(description="as its reader sees it")
    def preview(self, template: MessageTemplate) -> str:
        if not template.body:
            return "Save it to see it."
        buttons = [
            (parameter.get("text", "Button"),)
            for component in template.components
            if isinstance(component, dict) and component.get("type") == "button"
            for parameter in component.get("parameters") or [{}]
        ]
        return format_html(
            '<div class="t-phone"><div class="t-bubble">{}<time>09:41</time></div>{}</div>',
            marked(template.body, template.variables),
            format_html_join("", '<div class="t-bubble-button">{}</div>', buttons),
        )


def filled(body: str, parameters: Sequence[Any]) -> str:
    """Put the variables into a template's text; one that is missing stays as it stands."""

    def value(match: re.Match[str]) -> str:
        number = int(match[1])
        return str(parameters[number - 1]) if 0 < number <= len(parameters) else match[0]

    return PLACEHOLDER.sub(value, body)


def source(variable: Any) -> str:
    """Name where a variable comes from, for reading."""
    text = str(variable.get("from", "?")) if isinstance(variable, dict) else str(variable)
    return text.removeprefix("attributes.")


def marked(body: str, variables: Sequence[Any]) -> str:
    """Escape a body, show *bold* and _italic_ as WhatsApp does, and mark what its variables stand for."""
    escaped = ITALIC.sub(r"<em>\1</em>", BOLD.sub(r"<strong>\1</strong>", str(conditional_escape(body))))

    def value(match: re.Match[str]) -> str:
        number = int(match[1])
        known = 0 < number <= len(variables)
        return format_html("<mark>{}</mark>", source(variables[number - 1]) if known else match[0])

    return mark_safe(PLACEHOLDER.sub(value, escaped))  # noqa: S308 - escaped above
