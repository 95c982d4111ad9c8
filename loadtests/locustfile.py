"""Locust users: partners that chat (streaming or not), look at their models and their usage, and are refused at times.

`python -m loadtests.load` starts the stack and runs this file. Each user asks the gateway and the bare relay in turns
with the same chats, so that a noisy machine is noisy for both; what is not a chat goes to the gateway only.
"""

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from locust import FastHttpUser, between, events, task

from loadtests.load.mix import REFUSALS, SMALL, draw, refusal_failure, usage_of
from loadtests.load.plan import Sample, plan_of_environment

PLAN = plan_of_environment()
_PARTNERS = itertools.cycle(PLAN.partners)
_SAMPLES: list[Sample] = []
_RNG = random.Random()
_BEGAN = time.monotonic()


class PartnerUser(FastHttpUser):
    """One client of one tenant, which thinks for 0.1 s between its requests."""

    host = PLAN.sekisho
    wait_time = between(0.05, 0.15)
    network_timeout = 30.0
    connection_timeout = 10.0

    def on_start(self) -> None:
        """Users are dealt to the tenants in turn."""
        self.partner = next(_PARTNERS)

    @task(20)
    def chat(self) -> None:
        """A chat or completion, to whose turn it is."""
        target, turn = PLAN.target(time.monotonic() - _BEGAN)
        chat = draw(self.partner.models, _RNG)
        about: dict[str, Any] = {"target": target, "kind": chat.kind, "turn": turn, "model": chat.model}
        root = PLAN.relay if target == "relay" else PLAN.sekisho
        with self._ask("POST", root + chat.path, f"{target} {chat.kind}", chat.body(target, _RNG)) as answer:
            counts, failure = None, "" if answer.status_code == 200 else _told(answer)
            if not failure:
                try:
                    counts = usage_of(chat, target, answer.content)
                except (ValueError, KeyError, TypeError) as error:
                    failure = f"{error!r} in an answer to {chat}"
            if counts is not None:
                about |= {"prompt_tokens": counts[0], "completion_tokens": counts[1]}
            self._note(answer, about, failure)

    @task(1)
    def models(self) -> None:
        """Exactly the models of the licence."""
        about = self._query("models")
        if about is not None:
            with self._ask("GET", f"{PLAN.sekisho}/models", "sekisho models") as answer:
                found = {card["id"] for card in answer.json()["data"]} if answer.status_code == 200 else set()
                self._note(answer, about, "" if found == set(self.partner.models) else _told(answer))

    @task(1)
    def usage(self) -> None:
        """The tenant's usage; its figures are compared when all is over."""
        about = self._query("usage")
        if about is not None:
            with self._ask("GET", f"{PLAN.sekisho}/usage?group_by=model", "sekisho usage") as answer:
                failed = {"rows": [], "totals": {"requests": -1}}
                found: dict[str, Any] = answer.json() if answer.status_code == 200 else failed
                good = found["totals"]["requests"] == sum(row["requests"] for row in found["rows"])
                self._note(answer, about, "" if good else _told(answer))

    @task(1)
    def refusal(self) -> None:
        """A request that must be refused: an answer to it would be the error."""
        about = self._query("refusal")
        if about is not None:
            refusal = _RNG.choice(REFUSALS)
            keys = {"partner": self.partner.key, "plan": PLAN.refused.get(refusal.code, ""), None: "sk_nobody"}
            url = f"{PLAN.sekisho}/chat/completions"
            with self._ask("POST", url, "sekisho refusal", refusal.body(), keys[refusal.key]) as answer:
                failure = refusal_failure(refusal, answer.status_code, answer.content or b"")
                self._note(answer, {**about, "refused": True, "model": SMALL}, failure)

    def _query(self, kind: str) -> dict[str, Any] | None:
        """What is known of a request that only the gateway understands; None while it is the relay's turn."""
        target, turn = PLAN.target(time.monotonic() - _BEGAN)
        return {"target": target, "kind": kind, "turn": turn} if target == "sekisho" else None

    def _ask(self, method: str, url: str, name: str, body: str | None = None, key: str | None = None) -> Any:
        headers = {
            "authorization": f"Bearer {key or self.partner.key}",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        return self.client.request(method, url, name=name, data=body, headers=headers, catch_response=True)

    def _note(self, answer: Any, about: dict[str, Any], failure: str) -> None:
        """Tell Locust what became of it, and keep it for the runner."""
        if failure:
            answer.failure(failure)
        else:
            answer.success()
        request_id = (answer.headers or {}).get("x-request-id") or ""
        took_ms = answer.request_meta["response_time"]
        tenant_id = self.partner.tenant_id
        _SAMPLES.append(Sample(**about, took_ms=took_ms, tenant_id=tenant_id, request_id=request_id, failure=failure))


def _told(answer: Any) -> str:
    return f"HTTP {answer.status_code} {getattr(answer, 'error', '') or ''} {(answer.content or b'')[:300]!r}"


def _started(**_: object) -> None:
    global _BEGAN
    _BEGAN = time.monotonic()


def _ended(**_: object) -> None:
    Path(PLAN.samples).write_bytes(msgspec.json.encode(_SAMPLES))


# Locust's hooks carry no types; these two give them the only ones that matter here.
_at_start: Callable[[Callable[..., None]], object] = events.test_start.add_listener
_at_end: Callable[[Callable[..., None]], object] = events.quitting.add_listener
_at_start(_started)
_at_end(_ended)
