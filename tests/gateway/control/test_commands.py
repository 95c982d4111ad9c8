"""The command line asks the admin plane over HTTP: what it prints programs can read, and codes tell how it went."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.cli import main
from gateway.control.client import REQUEST_BYTES_MAX
from gateway.control.door import BODY_BYTES_MAX
from gateway.identity.keys import key_id_of
from gateway.licensing.decide import models_of
from gateway.tenancy.keystore import KeyFiles
from tests.conftest import read_snapshot
from tests.gateway.control.admin import Administration, licence_document
from tests.gateway.control.parties import Parties
from tests.gateway.control.test_code_files import GOOD
from tests.gateway.control.test_licences import NOW
from tests.gateway.control.world import Estate, an_upstream

Sekisho = Callable[..., Any]


@pytest.fixture
def sekisho(
    admin: Administration, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Sekisho:  # fmt: skip
    """Runs a command on a data folder whose `up.json` names the plane: exit code, standard output, standard error."""
    monkeypatch.setenv("LANG", "C.UTF-8")
    for name in ("SEKISHO_ADMIN_URL", "SEKISHO_ADMIN_KEY", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "up.json").write_text(json.dumps({"admin_url": url, "admin_key": admin.root.key}))

    async def run(*arguments: object) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["--data-dir", str(tmp_path), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


async def test_webhook_from_its_secret_to_its_end(sekisho: Sekisho, admin: Administration, tenant: str) -> None:
    code, out, _ = await sekisho("webhook", "add", tenant, "https://hooks.example/x", "--event", "limit.soft_reached")
    endpoint, secret = out.split()
    assert (code, secret.startswith("whsec_")) == (0, True)
    assert (await admin.root.good("GET", f"/webhooks/{endpoint}"))["events"] == ["limit.soft_reached"]
    code, event, _ = await sekisho("webhook", "test", endpoint)
    assert (await sekisho("webhook", "redeliver", endpoint, event.strip()))[:2] == (0, event)
    rows = json.loads((await sekisho("webhook", "deliveries", endpoint, "--json"))[1])
    assert [(row["event_id"], row["status"]) for row in rows] == [(event.strip(), "pending")]
    assert (await sekisho("webhook", "rotate", endpoint))[1].startswith("whsec_")
    for action, told in (("disable", "disabled"), ("enable", "enabled"), ("delete", "deleted")):
        assert await sekisho("webhook", action, endpoint) == (0, f"{endpoint} {told}\n", "")
    assert [
        row["deleted_at"] is None for row in json.loads((await sekisho("webhook", "list", tenant, "--json"))[1])
    ] == [False]
    code, out, err = await sekisho("webhook", "test", endpoint)
    assert (code, out) == (1, "wrong_state\n") and "deleted" in err


async def test_tenant_key_is_rotated_and_destroyed_only_on_purpose(sekisho: Sekisho, tmp_path: Path) -> None:
    keys = KeyFiles(tmp_path)
    first = keys.current("acme").key_id
    code, out, _ = await sekisho("tenant-key", "rotate", "acme")
    assert (code, out.strip()) == (0, keys.current("acme").key_id) and out.strip() != first
    assert (await sekisho("tenant-key", "destroy", "acme"))[0] == 2
    assert keys.find("acme", first) is not None
    assert await sekisho("tenant-key", "destroy", "acme", "--yes") == (0, "2 keys of acme destroyed\n", "")
    assert keys.find("acme", first) is None
    assert (await sekisho("tenant-key", "rotate", "../x"))[0] == 2


LIMITS = ("--tokens-month", "10", "--micro-yen-month", "10", "--rpm", "10", "--concurrency", "1")


async def test_tenant_project_and_key_from_nothing(sekisho: Sekisho, admin: Administration) -> None:
    name = f"t-{uuid4().hex[:10]}"
    assert await sekisho("tenant", "create", name, "--legal-name", "例", *LIMITS) == (0, f"{name}\n", "")
    assert (await sekisho("project", "create", name, "p1", "--rpm", "5"))[0] == 0
    code, out, _ = await sekisho("key", "issue", name, "--project", "p1", "--allow-cidr", "192.0.2.0/24")
    key_id = key_id_of(out.strip())
    assert code == 0 and key_id is not None
    shown = await admin.root.good("GET", f"/keys/{key_id}")
    assert (shown["tenant_id"], shown["project_id"], shown["cidrs"]) == (name, "p1", ["192.0.2.0/24"])
    code, out, _ = await sekisho("key", "rotate", key_id, "--overlap-s", 60)
    successor = key_id_of(out.strip())
    assert (await sekisho("key", "revoke", successor)) == (0, f"{successor} revoked\n", "")
    listed = json.loads((await sekisho("key", "list", name, "--json"))[1])
    assert {row["key_id"]: row["revoked_at"] is None for row in listed} == {key_id: True, successor: False}
    assert name in (await sekisho("tenant", "list"))[1]
    assert json.loads((await sekisho("tenant", "show", name))[1])["legal_name"] == "例"
    assert "p1" in (await sekisho("project", "list", name))[1]


async def test_refusal_is_exit_code_one_with_the_code_on_standard_output(sekisho: Sekisho) -> None:
    code, out, err = await sekisho("key", "revoke", "0" * 12)
    assert (code, out) == (1, "object_not_found\n")
    assert "There is no key" in err
    code, out, err = await sekisho("tenant", "create", "Bad Name", "--legal-name", "x", *LIMITS)
    assert (code, out) == (1, "invalid_value\n")
    assert "tenant_id" in err


async def test_plane_that_is_not_there_is_exit_code_two(sekisho: Sekisho, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    code, out, err = await sekisho("tenant", "list", "--admin-url", f"http://127.0.0.1:{port}/admin/v1")
    assert (code, out) == (2, "") and "does not answer" in err
    (tmp_path / "up.json").unlink()
    code, out, err = await sekisho("tenant", "list")
    assert (code, out) == (2, "") and "SEKISHO_ADMIN_URL" in err


async def test_option_and_variable_name_another_key(
    sekisho: Sekisho, admin: Administration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    engineer = await admin.somebody("si_engineer", tenant)
    (tmp_path / "key").write_text(engineer.key + "\n")
    listed = json.loads((await sekisho("tenant", "list", "--json", "--admin-key-file", tmp_path / "key"))[1])
    assert [row["tenant_id"] for row in listed] == [tenant]
    monkeypatch.setenv("SEKISHO_ADMIN_KEY", engineer.key)
    assert json.loads((await sekisho("tenant", "list", "--json"))[1]) == listed


async def test_admin_key_is_issued_listed_and_revoked(sekisho: Sekisho, admin: Administration, tenant: str) -> None:
    code, out, _ = await sekisho("admin-key", "issue", "--role", "si_engineer", "--tenant", tenant)
    key_id = key_id_of(out.strip(), prefix="ska")
    assert code == 0 and key_id in (await sekisho("admin-key", "list"))[1]
    assert (await sekisho("admin-key", "revoke", key_id))[0] == 0
    row = next(row for row in json.loads((await sekisho("admin-key", "list", "--json"))[1]) if row["key_id"] == key_id)
    assert row["revoked_at"] is not None


async def test_licence_is_submitted_listed_simulated_and_revoked(
    sekisho: Sekisho, admin: Administration, parties: Parties, tenant: str, tmp_path: Path, database: Any
) -> None:
    await admin.root.good("POST", "/upstreams", an_upstream())
    document = licence_document(tenant, parties.issuer)
    file = tmp_path / "a.dsse.json"
    file.write_text(await parties.sealed(document) + "\n")
    code, out, _ = await sekisho("licence", "submit", file)
    assert (code, out.split()[0]) == (0, f"{document['licence_id']}@1")
    assert models_of((await read_snapshot(database)).licences, tenant, NOW) == ["m1"]
    assert document["licence_id"] in (await sekisho("licence", "list", "--tenant", tenant))[1]
    code, out, _ = await sekisho("licence", "simulate", file)
    assert (code, out.splitlines()[0][:29]) == (0, "0 of 0 recorded decisions wou")
    assert (await sekisho("licence", "revoke", document["licence_id"], "--reason", "over"))[0] == 0
    assert (await sekisho("licence", "submit", file))[:2] == (1, "revoked\n")
    file.write_text("{}")
    assert (await sekisho("licence", "simulate", file))[0] == 1


async def test_usage_is_a_table_or_json(sekisho: Sekisho, tenant: str) -> None:
    code, out, _ = await sekisho("usage", "--tenant", tenant, "--from", "2026-11-01", "--to", "2026-11-02")
    assert code == 0 and out.startswith("2026-11-01T00:00:00+09:00 – 2026-11-02T00:00:00+09:00 (Asia/Tokyo)\n")
    code, out, _ = await sekisho("usage", "--tenant", tenant, "--zone", "UTC", "--group-by", "model,hour", "--json")
    answer = json.loads(out)
    assert (code, answer["zone"], answer["totals"]["requests"], answer["rows"]) == (0, "UTC", 0, [])
    assert (await sekisho("usage", "--tenant", "nobody"))[:2] == (1, "object_not_found\n")
    assert (await sekisho("usage", "--tenant", tenant, "--group-by", "colour"))[0] == 2


async def test_plan_shows_apply_does_and_export_writes_what_a_plan_finds_unchanged(
    sekisho: Sekisho, admin: Administration, parties: Parties, tmp_path: Path
) -> None:
    name = f"t-{uuid4().hex[:10]}"
    folder = tmp_path / "tenants"
    (folder / "licences").mkdir(parents=True)
    envelope = await parties.sealed(licence_document(name, parties.issuer))
    (folder / "licences" / "a.dsse.json").write_text(envelope + "\n")
    text = GOOD.replace("acme", name) + "    licences:\n      - file: licences/a.dsse.json\n"
    (folder / "a.yaml").write_text(text)
    code, out, _ = await sekisho("plan", "-f", folder)
    assert code == 0
    assert f"+ tenant {name}\n" in out and f"+ key {name}/app\n" in out and "3 to create" in out
    digest = next(line for line in out.splitlines() if line.startswith("plan digest")).split()[2].rstrip(",")
    code, out, _ = await sekisho("apply", "-f", folder, "--plan-digest", digest)
    issued = [line.split()[1] for line in out.splitlines() if line.startswith(f"{name}/app ")]
    assert code == 0 and len(issued) == 1 and key_id_of(issued[0]) is not None
    assert (await sekisho("apply", "-f", folder, "--plan-digest", digest))[:2] == (1, "book_moved\n")
    code, out, _ = await sekisho("apply", "-f", folder, "--json")
    assert json.loads(out)["issued"] == [] and json.loads(out)["summary"]["unchanged"] == 3

    engineer = await admin.somebody("si_engineer", name)
    (tmp_path / "key").write_text(engineer.key)
    copy = tmp_path / "copy"
    assert (await sekisho("export", "-f", copy, "--admin-key-file", tmp_path / "key"))[0] == 0
    code, out, _ = await sekisho("plan", "-f", copy, "--json", "--admin-key-file", tmp_path / "key")
    assert json.loads(out)["summary"] == {"unchanged": 3}
    assert (await sekisho("export", "-f", copy))[0] == 2  # nothing is overwritten


async def test_whole_book_exported_by_an_administrator_reads_as_unchanged(
    sekisho: Sekisho, admin: Administration, parties: Parties, tmp_path: Path
) -> None:
    await Estate.made(admin, parties)
    copy = tmp_path / "copy"
    assert (await sekisho("export", "-f", copy))[0] == 0
    assert {"_platform.yaml", "licences"} <= {entry.name for entry in copy.iterdir()}
    state = await admin.root.good("GET", "/export")
    plan = await admin.root.good("POST", "/plan", {"desired": state})
    assert set(plan["summary"]) <= {"unchanged", "not_in_files"}


async def test_problems_are_told_at_their_places_also_those_that_only_the_book_knows(
    sekisho: Sekisho, tmp_path: Path
) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(GOOD.replace("label: app", "label: app\n        project_id: p9"))
    code, out, _ = await sekisho("plan", "-f", file)
    assert (code, out.splitlines()[0]) == (1, "plan_refused")
    assert out.splitlines()[1].startswith(f"{file}:11:21: tenants[0].keys[0].project_id: invalid_value: ")
    file.write_text(GOOD.replace("rpm: 60", "rpm: x"))
    code, out, _ = await sekisho("apply", "-f", file, "--json")
    problem = json.loads(out)["problems"][0]
    assert (code, problem["line"], problem["column"], problem["code"]) == (1, 7, 10, "invalid_type")
    assert (await sekisho("plan", "-f", tmp_path / "nothing"))[0] == 2


async def test_texts_are_japanese_where_the_person_reads_japanese(
    sekisho: Sekisho, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    _, out, err = await sekisho("tenant", "show", "nobody")
    assert out == "object_not_found\n" and "権限の範囲外" in err
    (tmp_path / "a.yaml").write_text(GOOD.replace("acme", f"t-{uuid4().hex[:8]}"))
    assert "作成 2件" in (await sekisho("plan", "-f", tmp_path / "a.yaml"))[1]


@pytest.mark.parametrize("command", [("licence", "submit"), ("client", "add", "t", "--label", "x", "--jwks")])
async def test_file_that_is_no_text_is_one_line_and_not_a_trace(
    sekisho: Sekisho, tmp_path: Path, command: tuple[str, ...]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00" * 100)
    code, out, err = await sekisho(*command, binary)
    assert (code, out) == (2, "")
    assert err.startswith("sekisho: ") and err.count("\n") == 1


async def unchecked(sekisho: Sekisho, *arguments: object) -> str:
    """The one line on the standard error of a command that could not ask: exit code 2, and nothing else."""
    code, out, err = await sekisho(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    assert err.startswith("sekisho: ")
    return str(err)


async def test_file_that_cannot_be_sent_is_told_in_one_line(sekisho: Sekisho, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content, words in ((b"\xff\xfe\x00", "cannot be read: not UTF-8"), (b"x" * 40_000_000, "is too large")):
        file.write_bytes(content)
        assert words in await unchecked(sekisho, "licence", "submit", file)
        assert words in await unchecked(sekisho, "client", "add", "acme", "--jwks", file)
    file.write_text("[" * 200_000)
    assert "holds no JSON" in await unchecked(sekisho, "client", "add", "acme", "--jwks", file)


async def test_key_that_is_none_and_address_that_is_none_are_told_in_one_line(
    sekisho: Sekisho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    for content in (b"\xff\xfe", "ska_鍵".encode(), b"ska_a\nb"):
        file.write_bytes(content)
        assert "admin key" in await unchecked(sekisho, "tenant", "list", "--admin-key-file", file)
    for url in ("http://[", "http://a:99999", "http://a..b", "ftp://a", "http://a/\u00e9", "http://a\nb"):
        await unchecked(sekisho, "tenant", "list", "--admin-url", url)
    monkeypatch.setenv("SEKISHO_ADMIN_KEY", "ska_a\r\nx: y")
    assert "admin key" in await unchecked(sekisho, "tenant", "list")


@pytest.mark.parametrize("noted", ["[]", "[" * 200_000, '{"admin_url": 1, "admin_key": []}', "\ud800"])
async def test_note_of_a_stack_that_is_damaged_is_as_good_as_none(sekisho: Sekisho, tmp_path: Path, noted: str) -> None:
    (tmp_path / "up.json").write_bytes(noted.encode("utf-8", "surrogatepass"))
    assert "no admin plane is known" in await unchecked(sekisho, "tenant", "list")


async def test_more_than_the_plane_takes_is_not_sent(sekisho: Sekisho, tmp_path: Path) -> None:
    assert REQUEST_BYTES_MAX == BODY_BYTES_MAX
    for name in ("a", "b", "c"):
        keys = "".join(f"      - label: {number:0200}\n" for number in range(4_500))
        (tmp_path / f"{name}.yaml").write_text(GOOD.replace("acme", name).replace("      - label: app\n", keys))
    assert "too large" in await unchecked(sekisho, "plan", "-f", tmp_path)
