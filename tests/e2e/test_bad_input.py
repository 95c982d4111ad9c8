"""Bad input: each gets the 4xx, code and field of the interface, in the caller's language, and never a 5xx."""

import asyncio
import base64
import gzip
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from gateway.faults import CATALOGUE, Fault
from tests.e2e.raw import CHAT, Answer, chat, connected, exchange, request
from tests.e2e.stack import Stack
from tests.e2e.tenants import Tenant, Terms, add_tenant

MB = 1024 * 1024
IMAGE = "messages[0].content[0].image_url.url"


def _image(url: str, model: str = "scripted-vision") -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
    }


def _said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "scripted-small", "messages": [{"role": "user", "content": content, **fields}]}


def _text(json_text: str) -> bytes:
    return json_text.encode()


def _deep(levels: int) -> bytes:
    return b'{"model":"scripted-small","messages":' + b"[" * levels + b"]" * levels + b"}"


@dataclass(frozen=True)
class Bad:
    """A body, and what must come back."""

    body: bytes | dict[str, Any]
    code: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    path: str = CHAT


def _png(size: int) -> str:
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(size)).decode()


NOT_JSON = {
    "empty": Bad(b"", "invalid_json"),
    "text": Bad(b"hello", "invalid_json"),
    "half": Bad(b'{"model": "scripted-small", "messages": [', "invalid_json"),
    "two": Bad(b"{}{}", "invalid_json"),
    "bom": Bad(b"\xef\xbb\xbf" + json.dumps(chat()).encode(), "invalid_json"),
    "utf16": Bad(json.dumps(chat()).encode("utf-16"), "invalid_json"),
    "utf16-no-bom": Bad(json.dumps(chat()).encode("utf-16-le"), "invalid_json"),
    "broken-utf8": Bad(b'{"model":"scripted-small","user":"\xff\xfe"}', "invalid_json"),
    "overlong-utf8": Bad(b'{"model":"scripted-small","user":"\xc0\xaf"}', "invalid_json"),
    "utf8-surrogate": Bad(b'{"model":"scripted-small","user":"\xed\xa0\x80"}', "invalid_json"),
    "nul": Bad(json.dumps(chat()).encode() + b"\0", "invalid_json"),
    "nul-in-text": Bad(b'{"model":"scripted-small","user":"a\0b"}', "invalid_json"),
    "nan": Bad(b'{"model":"scripted-small","temperature":NaN}', "invalid_json"),
    "infinity": Bad(b'{"model":"scripted-small","temperature":-Infinity}', "invalid_json"),
    "comment": Bad(b'{"model":"scripted-small" /* hi */}', "invalid_json"),
    "trailing-comma": Bad(b'{"model":"scripted-small",}', "invalid_json"),
    "single-quotes": Bad(b"{'model':'scripted-small'}", "invalid_json"),
    "lone-surrogate": Bad(_text('{"model":"scripted-small","user":"\\ud800"}'), "invalid_json"),
    "lone-low-surrogate": Bad(_text('{"model":"scripted-small","user":"\\udc00x"}'), "invalid_json"),
    "lone-surrogate-key": Bad(_text('{"model":"scripted-small","\\ud83d":1}'), "invalid_json"),
    "huge-digits": Bad(b'{"model":"scripted-small","seed":' + b"9" * 5_000 + b"}", "invalid_json"),
    "array": Bad(b"[]", "invalid_type"),
    "string": Bad(b'"scripted-small"', "invalid_type"),
    "null": Bad(b"null", "invalid_type"),
    "deep": Bad(_deep(30_000), "nesting_too_deep"),
    "deep-object": Bad(b'{"a":' * 30_000 + b"1" + b"}" * 30_000, "nesting_too_deep"),
    "gzip-undeclared": Bad(gzip.compress(json.dumps(chat()).encode()), "invalid_json"),
}
DUPLICATES = {
    "top": Bad(b'{"model":"scripted-small","model":"scripted-small"}', "duplicate_key", "model"),
    "nested": Bad(
        b'{"model":"scripted-small","messages":[{"role":"user","content":"a","content":"b"}]}',
        "duplicate_key",
        "content",
    ),
    "escaped": Bad(_text('{"model":"scripted-small","mo\\u0064el":"x"}'), "duplicate_key", "model"),
    "far": Bad(
        b'{"seed":1,"model":"scripted-small","messages":[{"role":"user","content":"a"}],"seed":1}',
        "duplicate_key",
        "seed",
    ),
    "schema": Bad(
        b'{"model":"scripted-small","response_format":{"type":"json_schema","json_schema":'
        b'{"name":"a","schema":{"a":1,"a":2}}}}',
        "duplicate_key",
        "a",
    ),
}
PROMPT = {"model": "scripted-small"}
TYPES = {
    "no-model": Bad({"messages": []}, "missing_parameter", "model"),
    "model-null": Bad({**chat(), "model": None}, "missing_parameter", "model"),
    "model-number": Bad({**chat(), "model": 7}, "invalid_type", "model"),
    "no-messages": Bad({"model": "scripted-small"}, "missing_parameter", "messages"),
    "messages-text": Bad({"model": "scripted-small", "messages": "hi"}, "invalid_type", "messages"),
    "messages-empty": Bad({"model": "scripted-small", "messages": []}, "invalid_value", "messages"),
    "message-number": Bad({"model": "scripted-small", "messages": [1]}, "invalid_type", "messages[0]"),
    "content-number": Bad(_said(1), "invalid_type", "messages[0].content"),
    "content-missing": Bad(
        {"model": "scripted-small", "messages": [{"role": "user"}]}, "missing_parameter", "messages[0].content"
    ),
    "role-unknown": Bad(
        {"model": "scripted-small", "messages": [{"role": "root", "content": "a"}]}, "invalid_value", "messages[0].role"
    ),
    "role-missing": Bad(
        {"model": "scripted-small", "messages": [{"content": "a"}]}, "missing_parameter", "messages[0].role"
    ),
    "temperature-text": Bad(chat(temperature="1"), "invalid_type", "temperature"),
    "temperature-high": Bad(chat(temperature=2.1), "invalid_value", "temperature"),
    "temperature-huge": Bad(_text('{"model":"scripted-small","messages":[{"role":"user","content":"a"}],'
                                  '"temperature":1e400}'), "invalid_value", "temperature"),
    "n-zero": Bad(chat(n=0), "invalid_value", "n"),
    "n-many": Bad(chat(n=10**6), "invalid_value", "n"),
    "n-bool": Bad(chat(n=True), "invalid_type", "n"),
    "n-float": Bad(chat(n=1.5), "invalid_type", "n"),
    "max-tokens-negative": Bad(chat(max_tokens=-1), "invalid_value", "max_tokens"),
    "seed-huge": Bad(chat(seed=2**64), "invalid_value", "seed"),
    "max-tokens-huge": Bad(chat(max_tokens=10**30), "context_length_exceeded"),
    "stop-many": Bad(chat(stop=["a"] * 17), "invalid_value", "stop"),
    "stream-text": Bad(chat(stream="yes"), "invalid_type", "stream"),
    "options-without-stream": Bad(chat(stream_options={"include_usage": True}), "invalid_value", "stream_options"),
    "tools-many": Bad(chat(tools=[{"type": "function", "function": {"name": "f"}}] * 129), "invalid_value", "tools"),
    "prompt-mixed": Bad({**PROMPT, "prompt": ["a", 1]}, "invalid_type", "prompt", path="/v1/completions"),
    "prompt-empty": Bad({"model": "scripted-small", "prompt": []}, "invalid_value", "prompt", path="/v1/completions"),
    "prompts-many": Bad(
        {"model": "scripted-small", "prompt": ["a"] * 513}, "invalid_value", "prompt", path="/v1/completions"
    ),
    "unknown-top": Bad(chat(chat_template="x"), "unknown_parameter", "chat_template"),
    "unknown-message": Bad(_said("a", uuid="x"), "unknown_parameter", "messages[0].uuid"),
    "unknown-part": Bad(
        _said([{"type": "text", "text": "a", "uuid": "x"}]), "unknown_parameter", "messages[0].content[0].uuid"
    ),
    "unknown-part-type": Bad(_said([{"type": "video_url"}]), "invalid_value", "messages[0].content[0].type"),
    "unknown-unicode": Bad(chat(温度=1), "unknown_parameter", "温度"),
    "messages-100000": Bad(
        {"model": "scripted-small", "messages": [{"role": "user", "content": "hi"}] * 100_000}, "too_many_values"
    ),
    "messages-4097": Bad(
        {"model": "scripted-small", "messages": [{"role": "user", "content": "hi"}] * 4_097},
        "invalid_value", "messages",
    ),
    "lists": Bad(b'{"model":"scripted-small","messages":[' + b"[]," * 3_000_000 + b"[]]}", "too_many_values"),
    "strings": Bad(b'{"model":"scripted-small","messages":[' + b'"ab",' * 1_600_000 + b'"ab"]}', "too_many_values"),
}  # fmt: skip
MODELS = {
    name: Bad({**chat(), "model": model}, "model_not_found", "model")
    for name, model in {
        "unknown": "gpt-4",
        "unicode": "モデル\U0001f600",
        "empty": "",
        "long": "m" * 100_000,
        "nul": "scripted-small\0",
        "path": "../scripted-small",
        "look-alike": "scripted‐small",
        "case": "Scripted-Small",
    }.items()
}
MEDIA = {
    "http": Bad(_image("http://example.com/a.png"), "remote_media_not_supported", IMAGE),
    "file": Bad(_image("file:///etc/passwd"), "remote_media_not_supported", IMAGE),
    "upper-data": Bad(_image("DATA:image/png;base64,AAAA"), "remote_media_not_supported", IMAGE),
    "svg": Bad(_image("data:image/svg+xml;base64,AAAA"), "invalid_value", IMAGE),
    "no-base64": Bad(_image("data:image/png,AAAA"), "invalid_value", IMAGE),
    "bad-base64": Bad(_image("data:image/png;base64,@@@@"), "invalid_value", IMAGE),
    "non-ascii": Bad(_image("data:image/png;base64,ＡＡＡＡ"), "invalid_value", IMAGE),
    "large": Bad(_image(_png(6 * MB)), "media_too_large", IMAGE),
    "blind-model": Bad(_image("data:image/png;base64,AAAA", "scripted-small"), "media_not_supported", IMAGE),
    "audio": Bad(
        _said([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]),
        "media_not_supported",
        "messages[0].content[0].input_audio",
    ),
}
FRAMES = {
    "gzip": Bad(gzip.compress(b"{}"), "unsupported_encoding", headers={"content_encoding": "gzip"}),
    "brotli": Bad(b"x", "unsupported_encoding", headers={"content_encoding": "br"}),
    "two-encodings": Bad(b"{}", "unsupported_encoding", headers={"content_encoding": "identity, gzip"}),
    "form": Bad(b"a=b", "unsupported_media_type", headers={"content_type": "application/x-www-form-urlencoded"}),
    "plain": Bad(b"{}", "unsupported_media_type", headers={"content_type": "text/plain"}),
    "too-large": Bad(b" " * (20 * MB), "body_too_large"),
    "no-key": Bad(b"{}", "missing_api_key", headers={"authorization": ""}),
    "basic": Bad(b"{}", "missing_api_key", headers={"authorization": "Basic dTpw"}),
    "bad-key": Bad(b"{}", "invalid_api_key", headers={"authorization": "Bearer sk_test_" + "x" * 10_000}),
    "unicode-key": Bad(b"{}", "invalid_api_key", headers={"authorization": "Bearer sk_t\xe9st_a_b"}),
    "no-route": Bad(b"{}", "route_not_found", path="/v1/embeddings"),
    "slash": Bad(b"{}", "route_not_found", path="/v1/chat/completions/"),
    "double-slash": Bad(b"{}", "route_not_found", path="//v1/chat/completions"),
    "dots": Bad(b"{}", "route_not_found", path="/v1/../v1/chat/completions"),
    "encoded-dots": Bad(b"{}", "route_not_found", path="/v1/%2e%2e/v1/chat/completions"),
    "nul-path": Bad(b"{}", "route_not_found", path="/v1/chat/completions%00"),
    "long-path": Bad(b"{}", "route_not_found", path="/v1/" + "a" * 20_000),
    "metrics": Bad(b"{}", "route_not_found", path="/metrics"),
    "method": Bad(b"{}", "method_not_allowed", path="/v1/models"),
}
CASES = {
    f"{group}-{name}": bad
    for group, bads in {
        "json": NOT_JSON, "duplicate": DUPLICATES, "type": TYPES, "model": MODELS, "media": MEDIA, "frame": FRAMES,
    }.items()
    for name, bad in bads.items()
}  # fmt: skip


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
async def test_bad_request_gets_its_status_code_field_and_cure(up: Stack, tenant: Tenant, bad: Bad) -> None:
    answers = [
        await exchange(up, request(tenant, bad.body, path=bad.path, accept_language=language, **bad.headers))
        for language in ("ja", "en")
    ]
    for answer, language in zip(answers, ("ja", "en"), strict=True):
        entry = CATALOGUE[bad.code]
        assert (answer.error["code"], answer.status) == (bad.code, entry.status), answer.error
        assert 400 <= answer.status < 500
        assert answer.error["param"] == bad.param
        assert answer.error["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["x-sekisho-outcome"] == entry.outcome
        template = entry.cure_ja if language == "ja" else entry.cure_en
        assert answer.error["cure"] == template.format(param=bad.param)
    assert answers[0].error["message"] != answers[1].error["message"]


@pytest_asyncio.fixture(scope="module")
async def tenant(up: Stack) -> Tenant:
    """One tenant for all: nothing here is used up."""
    return await add_tenant(up, Terms(models=("scripted-small", "scripted-slow", "scripted-vision")))


async def test_a_body_without_length_that_grows_too_large_is_refused_at_the_limit(up: Stack, tenant: Tenant) -> None:
    head = request(tenant, b"", content_length="", transfer_encoding="chunked")
    async with connected(up) as wire:
        await wire.send(head)
        chunk = b"%x\r\n" % MB + b" " * MB + b"\r\n"
        sending = asyncio.create_task(wire.send(chunk * 20 + b"0\r\n\r\n"))
        answer = await wire.answer()
        await sending
    assert (answer.status, answer.error["code"], answer.closed) == (413, "body_too_large", True)


@pytest.mark.parametrize("query", [
    "from=x", "to=2026-13-01", "zone=Nowhere/City", "zone=../../etc/passwd", "zone=Asia", "zone=%00", "zone=localtime",
    "group_by=tenant", "group_by=model;drop", "tenant=demo", "from=0001-01-01&to=0001-02-01",
    "from=0001-01-01T00:00:00%2B14:00&to=0001-01-02", "from=9999-12-30&to=9999-12-31T23:59:59-14:00",
    "from=2026-11-02&to=2026-11-01", "from=2020-01-01&to=2026-01-01", "group_by=hour&zone=posixrules",
])  # fmt: skip
async def test_bad_usage_question_is_answered_and_never_a_server_error(up: Stack, tenant: Tenant, query: str) -> None:
    data = f"GET /v1/usage?{query} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {tenant.key}\r\n\r\n"
    answer = await exchange(up, data.encode())
    assert answer.status in (200, 400), answer.body
    if answer.status == 400:
        assert answer.error["code"] in ("invalid_value", "unknown_parameter")
        assert answer.error["param"] in ("from", "to", "zone", "group_by", "tenant")


async def test_long_texts_full_of_braces_are_no_nesting_and_no_values(up: Stack, tenant: Tenant) -> None:
    code = json.dumps({"a": [{"b": "\\"}] * 100_000})
    answer = await exchange(up, request(tenant, _said(code)))
    assert answer.error["code"] in ("context_length_exceeded", "rejected_by_model")


def _lines(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


MALFORMED = {
    "both-lengths": (["content-length: 4", "transfer-encoding: chunked"], b"0\r\n\r\n"),
    "two-lengths": (["content-length: 2", "content-length: 3"], b"{}"),
    "length-list": (["content-length: 2, 2"], b"{}"),
    "negative-length": (["content-length: -2"], b"{}"),
    "length-plus": (["content-length: +2"], b"{}"),
    "length-overflow": (["content-length: 99999999999999999999"], b"{}"),
    "length-hex": (["content-length: 0x2"], b"{}"),
    "te-unknown": (["transfer-encoding: gibberish"], b"{}"),
    "te-twice": (["transfer-encoding: chunked, identity"], b"0\r\n\r\n"),
    "te-obscured": (["transfer-encoding : chunked"], b"0\r\n\r\n"),
    "folded": (["x-a: b", " transfer-encoding: chunked"], b""),
    "name-space": (["x a: b"], b""),
    "name-nul": (["x\0a: b"], b""),
    "value-nul": (["x-a: b\0c"], b""),
    "bare-cr": (["x-a: b\rc: d"], b""),
    "no-colon": (["nonsense"], b""),
    "chunk-size": (["transfer-encoding: chunked"], b"zz\r\nab\r\n0\r\n\r\n"),
    "chunk-negative": (["transfer-encoding: chunked"], b"-1\r\nab\r\n0\r\n\r\n"),
    "chunk-huge": (["transfer-encoding: chunked"], b"fffffffffffffffff\r\nab\r\n"),
    "chunk-short": (["transfer-encoding: chunked"], b"1\r\nabc\r\n0\r\n\r\n"),
    "chunk-bare-lf": (["transfer-encoding: chunked"], b"2\n{}\n0\n\n"),
}


@pytest.mark.parametrize(("lines", "body"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_requests_that_two_servers_could_read_differently_are_refused_and_the_connection_closed(
    up: Stack, tenant: Tenant, lines: list[str], body: bytes
) -> None:
    head = [f"POST {CHAT} HTTP/1.1", "host: a", f"authorization: Bearer {tenant.key}", "content-type: application/json"]
    hidden = _lines("GET /v1/models HTTP/1.1", "host: a", f"authorization: Bearer {tenant.key}")
    async with connected(up) as wire:
        await wire.send(_lines(*head, *lines) + body + hidden)
        answer = await wire.answer()
        assert (answer.status, answer.error["code"]) == (400, "malformed_http")
        assert answer.headers["connection"] == "close"
        assert await wire.reader.read() == b""  # what was hidden behind it is never answered


@pytest.mark.parametrize("first", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-OpenSSH_9.0\r\n", b"GET\r\n\r\n", b"\0" * 64,
    b"GET /v1/models HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GE T / HTTP/1.1\r\n\r\n",
    b"GET /\xe9 HTTP/1.1\r\nhost: a\r\n\r\n",
])  # fmt: skip
async def test_what_is_no_http_is_told_so_and_closed(up: Stack, first: bytes) -> None:
    async with connected(up) as wire:
        await wire.send(first)
        answer = await wire.answer()
        assert answer.status in (400, 404)
        assert answer.status == 404 or await wire.closed_within(2)


@pytest.mark.parametrize("shape", ["one-long", "many", "in-one-packet", "long-url", "trailers"])
async def test_header_bombs_are_cut_off(up: Stack, tenant: Tenant, shape: str) -> None:
    start = f"GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {tenant.key}\r\n".encode()
    post = request(tenant, b"", content_length="", transfer_encoding="chunked")
    bombs = {
        "one-long": start + b"x: " + b"a" * 40_000,
        "many": start + b"".join(b"x-%d: a\r\n" % number for number in range(200)) + b"\r\n",
        "in-one-packet": start + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 600) for n in range(90)) + b"\r\n",
        "long-url": b"GET /v1/models?" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        "trailers": post + b"2\r\n{}\r\n0\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 600) for n in range(2_000)),
    }
    async with connected(up) as wire:
        await wire.send(bombs[shape])
        answer = await wire.answer()
        assert (answer.status, answer.error["code"], answer.closed) == (431, "headers_too_large", True)


async def test_pipelined_requests_are_answered_in_order_and_apart(up: Stack, tenant: Tenant) -> None:
    good, bad = request(tenant, chat(max_tokens=1)), request(tenant, b"{")
    async with connected(up) as wire:
        await wire.send((good + bad) * 20)
        statuses = [(await wire.answer()).status for _ in range(40)]
    assert statuses == [200, 400] * 20


async def test_garbage_behind_a_running_stream_is_not_answered_inside_it(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(request(tenant, chat("scripted-slow", stream=True)))
        status, _ = await wire.head()
        assert status == 200
        await wire.send(b"\0\0 garbage\r\n\r\n")
        rest = await asyncio.wait_for(wire.reader.read(), 5)
    assert b"HTTP/1.1" not in rest


def test_every_code_in_the_catalogue_says_what_to_do_in_both_languages() -> None:
    for name in CATALOGUE:
        fault = Fault(name)
        assert fault.text("en") != fault.text("ja") != ""
        assert fault.cure("en") != fault.cure("ja") != ""


def test_answer_of_the_raw_client_is_what_was_sent() -> None:
    assert Answer(400, {}, b'{"error": {"code": "a"}}', closed=True).error == {"code": "a"}
