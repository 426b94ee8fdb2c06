"""WhatsApp Cloud API, as far as a sender can tell the difference."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from typing import Any

import orjson

from sandbox.config import SandboxConfig
from sandbox.counting import Accepted, Number
from sandbox.http import Answer, Request
from sandbox.webhooks import Poster

# code -> (HTTP status, what Meta calls it)
ERRORS: dict[str, tuple[int, str]] = {
    "1": (500, "API Unknown"),
    "2": (503, "API Service"),
    "4": (400, "Application request limit reached"),
    "10": (403, "Permission denied"),
    "100": (400, "Invalid parameter"),
    "190": (401, "Error validating access token: the session has been invalidated"),
    "368": (403, "Temporarily blocked for policies violations"),
    "80007": (400, "Rate limit issues"),
    "130429": (400, "Rate limit hit"),
    "131000": (500, "Something went wrong"),
    "131009": (400, "Parameter value is not valid"),
    "131016": (500, "Service unavailable"),
    "131026": (400, "Message undeliverable"),
    "131042": (400, "Business eligibility payment issue"),
    "131047": (400, "Re-engagement message"),
    "131048": (400, "Spam rate limit hit"),
    "131049": (400, "This message was not delivered to maintain healthy ecosystem engagement"),
    "131050": (400, "User has stopped marketing messages"),
    "131056": (400, "(Business Account, Consumer Account) pair rate limit hit"),
    "132001": (404, "Template name does not exist in the translation"),
    "132015": (400, "Template is paused"),
}
TEMPLATES = (
    ("hello_world", "en_US", "UTILITY", "Welcome and congratulations!"),
    ("offer", "en", "MARKETING", "Hello {{1}}, your offer is ready."),
    ("winner", "en", "MARKETING", "Congratulations {{1}}, you won {{2}}."),
    ("order_update", "en_US", "UTILITY", "Hello {{1}}, your order {{2}} is on its way."),
)
_TO = re.compile(r"\+?[1-9][0-9]{6,14}")
_NUMBER = re.compile(r"[0-9]{1,20}")
_VERSION = re.compile(r"v[0-9]{1,3}(\.[0-9]{1,2})?")


class WhatsApp:
    """The numbers of one make-believe account, each with its own limit and count."""

    def __init__(self, config: SandboxConfig) -> None:
        self.started = time.monotonic()
        self.poster = Poster(lambda: self.config)
        # Unique across restarts, so that a wamid of yesterday's run never comes back.
        self._wamid = f"wamid.{os.urandom(6).hex()}."
        self._serial = 0
        self.numbers: dict[str, Number] = {}
        self.configure(config)
        self.hang(config.hang_all)

    def configure(self, config: SandboxConfig) -> None:
        self.config = config
        self._own = {number: config.of(number) for number in config.numbers}
        self._faults = {number: own.faults() for number, own in self._own.items()}
        self._everybodys = config.faults()
        self._failures = config.failures()

    def hang(self, seconds: float) -> None:
        """Answer nobody from now on, for so long."""
        self._hangs_until = time.monotonic() + seconds

    def reset(self) -> None:
        self.numbers.clear()
        self.poster.reset()
        self.started = time.monotonic()

    def handle(self, request: Request) -> Answer:
        """Answer a request to /v{N}/…"""
        parts = request.path.split("/")
        if len(parts) < 3 or not _VERSION.fullmatch(parts[1]):
            return self._delayed(error("100", "Unknown path"))
        if refusal := self._refuse_token(request):
            return self._delayed(refusal)
        if len(parts) == 4 and parts[3] == "messages" and request.method == "POST":
            return self._delayed(self._send(parts[2], request), parts[2])
        if request.method == "GET" and len(parts) == 4 and parts[3] == "message_templates":
            return self._delayed(self._templates(request))
        if request.method == "GET" and len(parts) == 4 and parts[3] == "phone_numbers":
            return self._delayed(self._numbers(parts[2]))
        if request.method == "GET" and len(parts) == 3:
            return self._delayed(self._about(parts[2]))
        return self._delayed(error("100", f"Unsupported {request.method.lower()} request"))

    def _delayed(self, answer: Answer, number: str = "") -> Answer:
        mean, deviation = self._own.get(number, self.config).latency_ms
        if mean and not answer.delay:
            answer.delay = max(0.001, random.gauss(mean, deviation) / 1_000)
        return answer

    def _refuse_token(self, request: Request) -> Answer | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token or token in self.config.dead_tokens:
            return error("190", "The access token is missing, expired or revoked")
        if token in self.config.spent_tokens:
            answer = error("80007", "Too many calls from this account")
            usage = {"type": "whatsapp", "call_count": 100, "estimated_time_to_regain_access": 1}
            answer.headers = {
                "x-app-usage": '{"call_count":28,"total_time":25,"total_cputime":25}',
                "x-business-use-case-usage": orjson.dumps({self.config.waba_id: [usage]}).decode(),
            }
            return answer
        return None

    def _send(self, number_id: str, request: Request) -> Answer:
        if not _NUMBER.fullmatch(number_id):
            return error("100", f"Object with ID '{number_id}' does not exist")
        number = self.numbers.get(number_id)
        if number is None:
            number = self.numbers[number_id] = Number()
        number.arrive(request.arrived)
        return self._judge(number_id, number, request)

    def _judge(self, number_id: str, number: Number, request: Request) -> Answer:
        config = self._own.get(number_id, self.config)
        if request.arrived < self._hangs_until:
            number.faults["hang_all"] += 1
            return Answer(reset=True, delay=config.hang_seconds)
        counted = request.arrived
        if config.jitter_ms:
            counted += random.uniform(-config.jitter_ms, config.jitter_ms) / 1_000
        code, details, message = self._read(request.body)
        if not code:
            code, details = self._limit(number_id, number, counted)
        fault = self._fault(number_id) if not code else ""
        if fault in config.errors:
            code, details = fault, "As the sandbox was told to answer"
        if code:
            number.errors[code] += 1
            return error(code, details)
        if fault:
            number.faults[fault] += 1
        if fault == "fail_graph":
            return error("131000", "As the sandbox was told to fail")
        if fault == "fail_bare":
            return Answer(502, b"<html><h1>502 Bad Gateway</h1></html>", kind="text/html")
        if fault == "reset_before":
            return Answer(reset=True)
        if fault == "hang_before":
            return Answer(reset=True, delay=config.hang_seconds)
        if fault == "odd_error":
            return error("131000", "A word with \0 in it, and many more. " * 3_000)
        number.taken.add(counted)
        to, attempt, template = message
        self._serial += 1
        wamid = f"{self._wamid}{self._serial:x}"
        if fault == "odd_wamid":
            wamid = wamid.ljust(200, "x")
        at = time.time() - (time.monotonic() - request.arrived)
        number.accept(Accepted(to, attempt, wamid, template, at))
        told = self._tell(number_id, wamid, to, attempt) if config.webhook_url else None
        if fault == "reset_after":
            return Answer(reset=True)
        if fault == "hang_after":
            return Answer(reset=True, delay=config.hang_seconds)
        if fault == "unreadable":
            return Answer(200, b'{"messaging_product":"whatsapp","contacts":[{"inp')
        if fault == "odd_shape":
            return Answer(200, b'{"messages":{"id":7},"contacts":null}')
        body = (
            f'{{"messaging_product":"whatsapp","contacts":[{{"input":"{to}","wa_id":"{to}"}}],'
            f'"messages":[{{"id":"{wamid}","message_status":"accepted"}}]}}'
        )
        return Answer(200, body.encode(), after=told)

    def _read(self, body: bytes) -> tuple[str, str, tuple[str, str, str]]:
        """Check a message's shape: what is wrong, as code and words, else its (to, attempt, template)."""
        nothing = ("", "", "")
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            return "100", "The body is not JSON", nothing
        if not isinstance(data, dict) or data.get("messaging_product") != "whatsapp":
            return "100", "The parameter messaging_product is required", nothing
        to, template = data.get("to"), data.get("template")
        if not isinstance(to, str) or not _TO.fullmatch(to):
            return "131009", "The parameter to is not a phone number", nothing
        if data.get("type") != "template" or not isinstance(template, dict):
            return "100", "The sandbox takes messages of type template", nothing
        name, language = template.get("name"), template.get("language")
        if not isinstance(name, str) or not isinstance(language, dict) or not language.get("code"):
            return "100", "A template has a name and a language with a code", nothing
        attempt = data.get("biz_opaque_callback_data", "")
        if not isinstance(attempt, str) or len(attempt) > 256:
            return "100", "biz_opaque_callback_data has at most 256 characters", nothing
        if name in self.config.missing_templates:
            return "132001", f"template name ({name}) does not exist in {language['code']}", nothing
        if name in self.config.paused_templates:
            return "132015", f"template ({name}) is paused for low quality", nothing
        return "", "", (to.removeprefix("+"), attempt, name)

    def _limit(self, number_id: str, number: Number, arrived: float) -> tuple[str, str]:
        config = self.config
        if config.burst_every and (arrived - self.started) % config.burst_every < config.burst_length:
            return "130429", "Message throughput reached (a burst)"
        rate = config.rates.get(number_id, config.rate)
        if rate and number.taken.most_with(arrived) >= rate:
            return "130429", f"Message throughput reached: {rate:g} per second"
        return "", ""

    def _fault(self, number_id: str) -> str:
        faults = self._faults.get(number_id, self._everybodys)
        if not faults:
            return ""
        die = random.random()
        return next((name for threshold, name in faults if die < threshold), "")

    def _tell(self, number: str, wamid: str, to: str, attempt: str) -> asyncio.Future[None] | None:
        """Queue an accepted message's updates; with `webhook_first`, return what its answer waits for."""
        config = self.config
        die = random.random()
        code = next((code for threshold, code in self._failures if die < threshold), "")
        plan: list[tuple[str, float]] = []
        if code:
            plan = [("failed", config.sent_after)]
        else:
            plan = [("sent", config.sent_after)]
            if random.random() < config.delivered:
                read = random.random() < config.read
                if not (read and random.random() < config.skip_delivered):
                    plan.append(("delivered", config.delivered_after))
                if read:
                    plan.append(("read", config.read_after))
        told = None
        last = max(after for _, after in plan)
        now = time.time()
        for status, after in plan:
            update: dict[str, Any] = {
                "id": wamid,
                "status": status,
                "timestamp": str(int(now + after)),
                "recipient_id": to,
            }
            if attempt:
                update["biz_opaque_callback_data"] = attempt
            if status == "failed":
                words = ERRORS.get(code, (400, "Failed"))[1]
                update["errors"] = [
                    {"code": int(code), "title": words, "message": words, "error_data": {"details": words}}
                ]
            else:
                update["pricing"] = {"billable": True, "pricing_model": "PMP", "category": "marketing"}
            for copy in range(config.webhook_copies):
                due, waiting = after, None
                if config.webhook_shuffle or copy:
                    due = random.uniform(0, last + copy * config.webhook_interval)
                if config.webhook_first and told is None:
                    told = waiting = asyncio.get_running_loop().create_future()
                    due = 0.0
                self.poster.add(number, update, due, waiting)
        return told

    def _about(self, object_id: str) -> Answer:
        if object_id == "me":
            return Answer(body=orjson.dumps({"id": "100000000000000", "name": "Sandbox"}))
        if not _NUMBER.fullmatch(object_id) or object_id in self.config.foreign_accounts:
            return error("100", f"Object with ID '{object_id}' does not exist")
        rate = self.config.rates.get(object_id, self.config.rate)
        return Answer(
            body=orjson.dumps(
                {
                    "id": object_id,
                    "display_phone_number": f"+{object_id}",
                    "verified_name": "Sandbox",
                    "quality_rating": "GREEN",
                    "throughput": {"level": "HIGH" if not rate or rate > 80 else "STANDARD"},
                }
            )
        )

    def _numbers(self, account_id: str) -> Answer:
        """List the numbers of an account. Every token may work for every account but the foreign ones."""
        if not _NUMBER.fullmatch(account_id) or account_id in self.config.foreign_accounts:
            return error("100", f"Object with ID '{account_id}' does not exist or is not shared with you")
        ids = sorted(self.numbers)[:100]
        return Answer(body=orjson.dumps({"data": [{"id": number} for number in ids]}))

    def _templates(self, request: Request) -> Answer:
        params = request.params()
        limit = int(params.get("limit", "25")) if params.get("limit", "25").isdigit() else 25
        start = int(params.get("after", "0")) if params.get("after", "0").isdigit() else 0
        page = TEMPLATES[start : start + max(limit, 1)]
        rows = [
            {
                "id": str(9_000_000_000_000 + start + place),
                "name": name,
                "language": language,
                "category": category,
                "status": "PAUSED" if name in self.config.paused_templates else "APPROVED",
                "components": [{"type": "BODY", "text": body}],
            }
            for place, (name, language, category, body) in enumerate(page)
            if name not in self.config.missing_templates
        ]
        end = start + len(page)
        paging: dict[str, Any] = {"cursors": {"before": str(start), "after": str(end)}}
        if end < len(TEMPLATES):
            paging["next"] = f"{request.path}?after={end}&limit={limit}"
        return Answer(body=orjson.dumps({"data": rows, "paging": paging}))


def error(code: str, details: str) -> Answer:
    """Answer as Graph does when it refuses."""
    status, words = ERRORS.get(code, (400, "Error"))
    body = {
        "error": {
            "message": f"(#{code}) {words}",
            "type": "OAuthException",
            "code": int(code),
            "error_data": {"messaging_product": "whatsapp", "details": details},
            "fbtrace_id": os.urandom(8).hex(),
        }
    }
    return Answer(status, orjson.dumps(body))
