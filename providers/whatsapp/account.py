"""Ask about a token, a number and an account's templates: a few calls a day, made with `send_now`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from providers.base import Call, Reply, Response, Standing, Unreadable, clean, clean_json, identifier
from providers.meta.graph import DETAIL_LENGTH, exhausted, get, read_error, read_json
from providers.whatsapp.errors import ErrorClass, classify

# Subcodes of 190 that say the token ran out by itself.
_EXPIRED = frozenset({"463", "467"})
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(slots=True, frozen=True)
class Template:
    """A template as Meta keeps it. `variables` are its body's placeholders, each once, in order."""

    id: str
    name: str
    language: str
    category: str
    status: str
    body: str
    variables: tuple[str, ...]
    components: tuple[dict[str, Any], ...]


@dataclass(slots=True, frozen=True)
class TemplatePage:
    """One page of an account's templates; `after` asks for the next one, None when this was the last."""

    templates: tuple[Template, ...]
    after: str | None


@dataclass(slots=True, frozen=True)
class Number:
    """What Meta says of a number. `throughput` is its level (STANDARD, HIGH), `quality` its rating."""

    id: str
    display_phone_number: str
    verified_name: str
    quality: str
    throughput: str


def check_token(
    *, base_url: str, version: str, token: str, object_id: str = "me", timeout: float = 10.0
) -> Call:
    """Build the cheapest call that a dead token cannot make.

    `object_id` is the number or account whose access matters; "me" asks about the token alone.
    """
    return get(base_url=base_url, version=version, path=object_id, token=token, timeout=timeout, fields="id")


def read_check(response: Response, *, secrets: tuple[str, ...] = ()) -> tuple[Standing, str]:
    """Say how a token stands, and why in the vendor's words."""
    if not isinstance(response, Reply):
        return Standing.FAILING, clean(response.reason, DETAIL_LENGTH, secrets)
    data = read_json(response.body)
    error = read_error(data, secrets)
    if error is None:
        if response.status < 300 and data is not None:
            return Standing.ACTIVE, ""
        if response.status == 429:
            return Standing.THROTTLED, "too many requests"
        return Standing.FAILING, f"HTTP {response.status} that cannot be read"
    words = f"{error.code}: {error.detail}"
    kind = classify(error.code)
    if kind is ErrorClass.CREDENTIALS:
        expired = error.code == "190" and error.subcode in _EXPIRED
        return Standing.EXPIRED if expired else Standing.REVOKED, words
    if (
        kind in (ErrorClass.CALL_LIMIT, ErrorClass.THROUGHPUT)
        or response.status == 429
        or exhausted(response)
    ):
        return Standing.THROTTLED, words
    return Standing.FAILING, words


def get_number(
    *, base_url: str, version: str, token: str, phone_number_id: str, timeout: float = 10.0
) -> Call:
    """Build the call that reads a number's rating and throughput."""
    fields = "id,display_phone_number,verified_name,quality_rating,throughput"
    return get(
        base_url=base_url, version=version, path=phone_number_id, token=token, timeout=timeout, fields=fields
    )


def read_number(response: Response, *, secrets: tuple[str, ...] = ()) -> Number:
    """Read a number. Raises Unreadable with the vendor's words when there is none."""
    data = _data(response, secrets)
    throughput = data.get("throughput")
    return Number(
        id=identifier(data.get("id"), 64),
        display_phone_number=clean(data.get("display_phone_number"), 200),
        verified_name=clean(data.get("verified_name"), 200),
        quality=clean(data.get("quality_rating"), 200),
        throughput=clean(throughput.get("level"), 64) if isinstance(throughput, dict) else "",
    )


def list_templates(
    *,
    base_url: str,
    version: str,
    token: str,
    waba_id: str,
    after: str | None = None,
    limit: int = 100,
    timeout: float = 30.0,
) -> Call:
    """Build the call that reads one page of an account's templates."""
    query = {"fields": "id,name,language,category,status,components", "limit": str(limit)}
    if after:
        query["after"] = after
    return get(
        base_url=base_url,
        version=version,
        path=f"{waba_id}/message_templates",
        token=token,
        timeout=timeout,
        **query,
    )


def read_templates(response: Response, *, secrets: tuple[str, ...] = ()) -> TemplatePage:
    """Read a page of templates. Raises Unreadable with the vendor's words when it is none."""
    data = _data(response, secrets)
    rows = data.get("data")
    if not isinstance(rows, list):
        raise Unreadable("a list of templates without its `data`")
    paging = data.get("paging")
    after = None
    # A short page is not the last one: `next` tells.
    if isinstance(paging, dict) and paging.get("next"):
        cursors = paging.get("cursors")
        after = clean(cursors.get("after")) if isinstance(cursors, dict) else None
    return TemplatePage(tuple(_template(row) for row in rows if isinstance(row, dict)), after or None)


def _template(row: dict[str, Any]) -> Template:
    components = clean_json(row.get("components"))
    parts = (
        tuple(part for part in components if isinstance(part, dict)) if isinstance(components, list) else ()
    )
    body = next((clean(part.get("text")) for part in parts if part.get("type") == "BODY"), "")
    return Template(
        id=identifier(row.get("id"), 64),
        name=identifier(row.get("name"), 512),
        language=clean(row.get("language"), 64),
        category=clean(row.get("category"), 64),
        status=clean(row.get("status"), 64),
        body=body,
        variables=tuple(dict.fromkeys(_PLACEHOLDER.findall(body))),
        components=parts,
    )


def _data(response: Response, secrets: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(response, Reply):
        raise Unreadable(clean(response.reason, DETAIL_LENGTH, secrets))
    data = read_json(response.body)
    if error := read_error(data, secrets):
        raise Unreadable(f"{error.code}: {error.detail}")
    if data is None or response.status >= 300:
        raise Unreadable(f"HTTP {response.status} that cannot be read")
    return data
