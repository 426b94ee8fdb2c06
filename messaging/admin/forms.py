"""The form of a broadcast: its audience is chosen, not typed as JSON."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from campaigns.models import Segment
from tenants.admin_base import TenantModelForm

ALL, SEGMENT, LISTED = "all", "segment", "contacts"


class BroadcastForm(TenantModelForm):
    reach = forms.ChoiceField(
        label="Who gets it",
        choices=[(ALL, "All contacts"), (SEGMENT, "A segment"), (LISTED, "Contacts listed below")],
        initial=ALL,
        widget=UnfoldAdminSelectWidget(),
        help_text="Who cannot be reached, or must not be, is left out at launch; Preflight counts them.",
    )
    segment = forms.ModelChoiceField(
        queryset=Segment._base_manager.none(), required=False, widget=UnfoldAdminSelectWidget()
    )
    listed = forms.CharField(
        label="Contacts",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}),
        help_text="External ids, one a line or separated by commas.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        segments = self.fields.get("segment")
        if not isinstance(segments, forms.ModelChoiceField):
            return  # the page is read only
        segments.queryset = Segment.objects.order_by("name")  # of the tenant in scope
        match self.instance.audience or {}:
            case {"segment": pk}:
                self.initial.update(reach=SEGMENT, segment=pk)
            case {"contacts": list(named)}:
                self.initial.update(reach=LISTED, listed="\n".join(named))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if cleaned.get("reach") == SEGMENT and not cleaned.get("segment"):
            self.add_error("segment", "Choose a segment.")
        if cleaned.get("reach") == LISTED and not self._named():
            self.add_error("listed", "List at least one contact.")
        return cleaned

    def audience(self) -> dict[str, Any]:
        """Return what was chosen, as the contract writes it down."""
        chosen = self.cleaned_data
        if chosen["reach"] == SEGMENT:
            return {"segment": chosen["segment"].pk}
        if chosen["reach"] == LISTED:
            return {"contacts": self._named()}
        return {"all": True}

    def _named(self) -> list[str]:
        text: str = self.cleaned_data.get("listed") or ""
        named = (part.strip() for part in text.replace(",", "\n").splitlines())
        return list(dict.fromkeys(part for part in named if part))
