"""The tenants' keys: made once by whoever comes first, rotated without loss, destroyed for good, useless elsewhere."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from gateway.tenancy.keystore import KeyFiles, Sealed, key_id_of, opened

TEXT = "峠の茶屋".encode()


def make(folder: Path, results: "multiprocessing.queues.Queue[str]") -> None:
    results.put(KeyFiles(folder).current("acme").key_id)


def rotate(folder: Path, results: "multiprocessing.queues.Queue[str]") -> None:
    results.put(KeyFiles(folder).rotate("acme"))


def in_processes(target: object, folder: Path, number: int = 4) -> list[str]:
    """What `number` processes that begin at once came to."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.queues.Queue[str] = context.Queue()
    workers = [context.Process(target=target, args=(folder, results)) for _ in range(number)]  # type: ignore[arg-type]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=20) for _ in workers]
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    return found


def test_processes_that_begin_at_once_use_one_key(tmp_path: Path) -> None:
    found = in_processes(make, tmp_path)
    assert len(set(found)) == 1
    assert KeyFiles(tmp_path).current("acme").key_id == found[0]


def test_no_rotation_of_several_at_once_loses_a_key(tmp_path: Path) -> None:
    first = KeyFiles(tmp_path).current("acme").key_id
    rotated = in_processes(rotate, tmp_path)
    keys = KeyFiles(tmp_path)
    assert len({first, *rotated}) == 5
    assert all(keys.find("acme", key_id) is not None for key_id in (first, *rotated))
    assert keys.current("acme").key_id in rotated


def test_only_the_owner_may_read_the_file_and_nothing_else_lies_beside_it(tmp_path: Path) -> None:
    KeyFiles(tmp_path).rotate("acme")
    folder = tmp_path / "secrets" / "tenants"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name for file in folder.iterdir()} == {"acme.json", ".lock"}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
    stored = json.loads((folder / "acme.json").read_text())["keys"].values()
    assert [len(bytes.fromhex(key)) for key in stored] == [32, 32]


def test_what_was_sealed_before_a_rotation_opens_after_it(tmp_path: Path) -> None:
    keys, other = KeyFiles(tmp_path), KeyFiles(tmp_path)
    sealed = other.current("acme").seal("p", TEXT, b"row 1")
    assert keys.rotate("acme") != key_id_of(sealed)
    assert opened(keys, "acme", "p", sealed, b"row 1") == TEXT
    assert key_id_of(other.current("acme").seal("p", TEXT, b"row 1")) == keys.current("acme").key_id  # seen at once


def test_destroyed_key_opens_nothing_in_any_process_and_a_later_one_is_another(tmp_path: Path) -> None:
    keys, other = KeyFiles(tmp_path), KeyFiles(tmp_path)
    sealed = other.current("acme").seal("p", TEXT, b"")
    draft = tmp_path / "secrets" / "tenants" / "acme.json.0123abcd"  # of a process that died while it wrote
    draft.write_text("{}")
    assert keys.destroy("acme") == 1
    assert not draft.exists()
    assert keys.destroy("acme") == 0
    assert other.find("acme", key_id_of(sealed)) is None
    other.current("acme")
    with pytest.raises(Sealed, match="destroyed"):
        opened(other, "acme", "p", sealed, b"")


@pytest.mark.parametrize(
    "what",
    ["tenant", "purpose", "context", "bit", "version", "short", "empty"],
)
def test_sealed_text_opens_for_its_tenant_purpose_and_place_only(tmp_path: Path, what: str) -> None:
    keys = KeyFiles(tmp_path)
    sealed = keys.current("acme").seal("p", TEXT, b"row 1")
    keys.current("other")
    wrong = {
        "bit": sealed[:-1] + bytes([sealed[-1] ^ 1]), "version": b"\x02" + sealed[1:], "short": sealed[:30],
        "empty": b"",
    }.get(what, sealed)  # fmt: skip
    with pytest.raises(Sealed):
        opened(
            keys, "other" if what == "tenant" else "acme", "q" if what == "purpose" else "p", wrong,
            b"row 2" if what == "context" else b"row 1",
        )  # fmt: skip


def test_equal_texts_are_sealed_differently_and_have_equal_fingerprints(tmp_path: Path) -> None:
    key = KeyFiles(tmp_path).current("acme")
    assert key.seal("p", TEXT, b"") != key.seal("p", TEXT, b"")
    assert key.fingerprint("p", TEXT) == key.fingerprint("p", TEXT) != key.fingerprint("q", TEXT)
    assert key.secret.hex() not in repr(key)


@pytest.mark.parametrize("tenant_id", ["", ".", "..", "../x", "a/b", "a.json", "A", "x" * 41, "a\0", "-a", "a\n"])
def test_name_that_is_no_tenants_reaches_no_file(tmp_path: Path, tenant_id: str) -> None:
    for act in (KeyFiles(tmp_path).current, KeyFiles(tmp_path).rotate, KeyFiles(tmp_path).destroy):
        with pytest.raises(ValueError, match="no tenant id"):
            act(tenant_id)


def test_damaged_file_is_an_error_and_never_replaced(tmp_path: Path) -> None:
    KeyFiles(tmp_path).current("acme")
    path = tmp_path / "secrets" / "tenants" / "acme.json"
    path.write_text('{"v": 1}')
    with pytest.raises(OSError, match="no key file"):
        KeyFiles(tmp_path).current("acme")
    assert path.read_text() == '{"v": 1}'
    KeyFiles(tmp_path).destroy("acme")
    assert not path.exists()
