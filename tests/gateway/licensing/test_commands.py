"""`sekisho licence …`: from a template to a licence that both parties signed, and every way in which it is not good."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.licensing.envelope import open_envelope
from gateway.licensing.trust import LicenceStatus, Trust, dump_trust, load_trust
from tests.gateway.licensing.contracts import a_child, a_document, the_parties

PARTIES = the_parties()
AT = ("--at", "2026-11-24T00:00:00Z")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `sekisho licence …` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEKISHO_DATA_DIR", raising=False)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["licence", *map(str, arguments)])
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


def put(document: dict[str, Any], name: str = "x.dsse.json") -> Path:
    path = Path(name)
    path.write_text(PARTIES.sealed_text(document) + "\n", encoding="utf-8")
    return path


def trust(**licences: LicenceStatus) -> None:
    """The data folder's trust file, with what it states of licences (`_` for `-` in their ids)."""
    path = Path(".sekisho/licences/trust.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {name.replace("_", "-"): status for name, status in licences.items()}
    path.write_text(dump_trust(Trust(PARTIES.trust.keys, stated)), encoding="utf-8")


def test_from_template_to_a_licence_that_verifies(run: Run) -> None:
    assert (
        run("new", "--template", "public", "--tenant", "acme", "--set", "grants[0].quota.rpm=60", "--out", "l.yaml")[0]
        == 0
    )
    assert run("keygen", "--role", "issuer", "--party", "sekisho", "--out", "issuer.pem")[0] == 0
    assert run("keygen", "--role", "licensee", "--party", "acme", "--out", "acme.pem")[0] == 0
    assert run("sign", "l.yaml", "--key", "issuer.pem")[0] == 0
    assert run("verify", "l.dsse.json")[:2] == (1, "signature_missing\n")
    assert run("sign", "l.dsse.json", "--key", "acme.pem")[0] == 0
    code, out, _ = run("verify", "l.dsse.json")
    assert code == 0
    assert out.startswith("good\n")
    assert "issuer sekisho" in out
    assert "licensee acme" in out
    document = open_envelope(Path("l.dsse.json").read_text(encoding="utf-8")).document
    assert document.grants[0].quota.rpm == 60


def test_both_parties_may_sign_at_once_and_signing_again_loses_no_signature(run: Run) -> None:
    for role, party in (("issuer", "sekisho"), ("licensee", "acme")):
        run("keygen", "--role", role, "--party", party, "--out", f"{role}.pem")
    run("new", "--template", "research", "--tenant", "acme", "--json", "--out", "l.json")
    assert run("sign", "l.json", "--key", "issuer.pem", "--key", "licensee.pem", "--out", "both.dsse.json")[0] == 0
    run("sign", "l.json", "--key", "issuer.pem")
    run("sign", "l.json", "--key", "licensee.pem")
    assert Path("l.dsse.json").read_text() == Path("both.dsse.json").read_text()
    assert run("verify", "both.dsse.json")[0] == 0


def test_signing_never_overwrites_the_envelope_of_another_document(run: Run) -> None:
    run("keygen", "--role", "issuer", "--party", "sekisho", "--out", "k.pem")
    run("new", "--template", "research", "--out", "l.yaml")
    run("sign", "l.yaml", "--key", "k.pem")
    before = Path("l.dsse.json").read_text()
    run("new", "--template", "public", "--out", "l.yaml")
    code, _, err = run("sign", "l.yaml", "--key", "k.pem")
    assert code == 2
    assert "another document" in err
    assert Path("l.dsse.json").read_text() == before


def test_nobody_signs_a_document_without_a_right_meaning(run: Run) -> None:
    run("keygen", "--role", "issuer", "--party", "sekisho", "--out", "k.pem")
    Path("l.json").write_text(json.dumps(a_document(**{"grants.0.regions": ["moon"]})))
    code, out, err = run("sign", "l.json", "--key", "k.pem")
    assert (code, out) == (1, "unknown_code\n")
    assert "grants[0].regions[0] names moon" in err
    assert "登録簿" in err
    assert not Path("l.dsse.json").exists()


def test_private_key_is_readable_by_its_owner_only_and_never_overwritten(run: Run) -> None:
    assert run("keygen", "--role", "issuer", "--party", "x", "--out", "k.pem", "--trust", "t.json")[0] == 0
    assert stat.S_IMODE(Path("k.pem").stat().st_mode) == 0o600
    before = Path("k.pem").read_bytes()
    assert run("keygen", "--role", "issuer", "--party", "x", "--out", "k.pem", "--trust", "t.json")[0] == 2
    assert Path("k.pem").read_bytes() == before
    assert not Path(".sekisho").exists()
    [key] = load_trust(Path("t.json")).keys.values()
    assert (key.role, key.party) == ("issuer", "x")
    assert {path.name for path in Path().iterdir()} == {"k.pem", "t.json"}


def test_keygen_keeps_what_the_trust_file_holds(run: Run) -> None:
    trust(lic_acme=LicenceStatus(3, True, "ab"))
    run("keygen", "--role", "licensee", "--party", "new", "--out", "k.pem", "--not-before", "2026-01-01T00:00:00Z")
    kept = load_trust(Path(".sekisho/licences/trust.json"))
    assert len(kept.keys) == len(PARTIES.trust.keys) + 1
    assert kept.licences == {"lic-acme": LicenceStatus(3, True, "ab")}


DIGEST = open_envelope(PARTIES.sealed_text(a_document())).digest


@pytest.mark.parametrize(
    ("status", "at", "code"),
    [
        (LicenceStatus(1), "2026-11-24T00:00:00Z", ""),
        (LicenceStatus(1, digest=DIGEST), "2026-11-24T00:00:00Z", ""),
        (LicenceStatus(1, digest="0" * 64), "2026-11-24T00:00:00Z", "version_replayed"),
        (LicenceStatus(2), "2026-11-24T00:00:00Z", "superseded"),
        (LicenceStatus(1, revoked=True), "2026-11-24T00:00:00Z", "revoked"),
        (LicenceStatus(2, revoked=True), "2026-11-24T00:00:00Z", "revoked"),
        (LicenceStatus(1), "2027-04-14T23:59:59+09:00", ""),
        (LicenceStatus(1), "2027-04-15T00:00:00+09:00", "expired"),
    ],
)
def test_verify_judges_by_the_clock_and_by_what_the_trust_file_states(
    run: Run, status: LicenceStatus, at: str, code: str
) -> None:
    trust(lic_acme=status)
    exit_code, out, _ = run("verify", put(a_document()), "--at", at)
    assert exit_code == (1 if code else 0)
    assert out.splitlines()[0] == (code or "good")


@pytest.mark.parametrize(
    ("at", "phase"),
    [("2026-01-01T00:00:00Z", "not_yet"), ("2026-11-24T00:00:00Z", "in_force"), ("2027-04-02T00:00:00Z", "grace")],
)
def test_verify_says_where_in_its_life_a_licence_is(run: Run, at: str, phase: str) -> None:
    trust()
    code, out, _ = run("verify", put(a_document()), "--at", at, "--json")
    facts = json.loads(out)
    assert (code, facts["ok"], facts["phase"]) == (0, True, phase)
    assert facts["licence"] == "lic-acme@1"


def test_verify_tells_a_changed_file_by_its_code_also_as_json(run: Run) -> None:
    trust()
    path = put(a_document())
    text = path.read_text()
    place = text.index('"sig":"') + 20
    path.write_text(text[:place] + ("B" if text[place] == "A" else "A") + text[place + 1 :])
    assert run("verify", path, *AT)[:2] == (1, "signature_invalid\n")
    code, out, _ = run("verify", path, *AT, "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["code"], told["path"]) == (1, False, "signature_invalid", "signatures[0].sig")
    assert told["text"]["ja"]
    assert told["cure"]["en"]


def test_verify_that_cannot_check_is_no_verdict(run: Run) -> None:
    path = put(a_document())
    assert run("verify", path, *AT)[:2] == (2, "")  # no trust file
    Path("t.json").write_text("{}")
    assert run("verify", path, *AT, "--trust", "t.json")[:2] == (2, "")
    trust()
    assert run("verify", "nowhere.json", *AT)[:2] == (2, "")
    code, out, err = run("verify", put(a_child(), "c.dsse.json"), *AT)
    assert (code, out) == (2, "")
    assert "lic-acme" in err


def test_verify_checks_a_child_against_its_parents_beside_it_or_in_the_data_folder(run: Run) -> None:
    trust()
    child = put(a_child(), "c.dsse.json")
    put(a_document(), ".sekisho/licences/lic-acme.dsse.json")
    assert run("verify", child, *AT)[0] == 0
    put(a_document(**{"grants.0.actions": ["chat"]}), "lic-acme.dsse.json")
    assert run("verify", child, *AT)[:2] == (1, "child_wider_than_parent\n")
    trust(lic_acme=LicenceStatus(1, revoked=True))
    put(a_document(), "lic-acme.dsse.json")
    code, out, err = run("verify", child, *AT)
    assert (code, out) == (1, "parent_not_in_force\n")
    assert "revoked" in err


def test_verify_does_not_take_a_forged_parent(run: Run) -> None:
    trust()
    wide = the_parties().sealed_text(a_document(**{"grants.0.quota.rpm": 10**6}))
    Path("lic-acme.dsse.json").write_text(wide)
    code, out, _ = run("verify", put(a_child(**{"grants.0.quota.rpm": 10**6}), "c.dsse.json"), *AT)
    assert (code, out) == (1, "parent_not_in_force\n")
    put(a_document(licence_id="lic-else"), "lic-acme.dsse.json")
    assert run("verify", put(a_child(), "c.dsse.json"), *AT)[:2] == (1, "malformed_envelope\n")


def test_time_without_an_offset_and_unknown_template_are_usage_errors(run: Run) -> None:
    for arguments in (
        ("verify", "x", "--at", "2026-01-01T00:00:00"),
        ("verify", "x", "--at", "noon"),
        ("new", "--template", "friend"),
        ("new", "--template", "public", "--set", "rpm"),
        ("export", "x"),
    ):
        with pytest.raises(SystemExit) as raised:
            run(*arguments)
        assert raised.value.code == 2
    assert run("new", "--template", "public", "--set", "a..b=1")[0] == 2


def test_new_refuses_values_that_make_no_licence(run: Run) -> None:
    assert run("new", "--template", "public", "--set", 'grants[0].regions=["moon"]')[:2] == (1, "unknown_code\n")
    assert run("new", "--template", "public", "--set", "version=first")[:2] == (1, "schema_invalid\n")


def test_show_says_what_is_enforced_and_whether_the_signatures_are_good(run: Run) -> None:
    path = put(
        a_document(**{"validity.not_before": "2000-01-01T00:00:00Z", "validity.not_after": "2999-01-01T00:00:00Z"})
    )
    code, out, _ = run("show", path)
    assert code == 0
    assert "tokens per minute: 1,000  [enforced]" in out
    assert "not verified, there is no trust file" in out
    trust()
    assert run("show", path)[1].endswith("verified: good\n")
    assert run("show", path, "--lang", "ja")[1].endswith("検証: 良好\n")
    trust(lic_acme=LicenceStatus(1, revoked=True))
    assert "verified: revoked" in run("show", path)[1]
    Path("l.json").write_text(json.dumps(a_document()))
    assert "a document only" in run("show", "l.json")[1]


def test_show_finds_a_licence_of_the_data_folder_by_its_id(run: Run) -> None:
    trust()
    put(a_document(), ".sekisho/licences/lic-acme.dsse.json")
    code, out, _ = run("show", "lic-acme", "--lang", "ja")
    assert code == 0
    assert out.startswith("ライセンス: lic-acme, 版 1\n")


def test_show_of_an_id_that_is_in_no_file_asks_the_admin_plane_and_says_when_there_is_none(run: Run) -> None:
    code, out, err = run("show", "lic-nowhere")
    assert (code, out) == (2, "")
    assert "no admin plane is known" in err


def test_diff_compares_documents_and_envelopes(run: Run) -> None:
    first = put(a_document())
    Path("b.json").write_text(json.dumps(a_document(version=2, supersedes=1)))
    assert run("diff", first, first)[:2] == (0, "no difference\n")
    assert run("diff", first, "b.json")[:2] == (0, "version: 1 → 2\nsupersedes: – → 1\n")
    told = json.loads(run("diff", first, "b.json", "--json")[1])
    assert told == [{"path": "version", "before": 1, "after": 2}, {"path": "supersedes", "before": None, "after": 1}]
    assert run("diff", first, "nowhere.json")[0] == 2


def test_export_and_schema_print_json(run: Run) -> None:
    code, out, _ = run("export", "--odrl", put(a_document()))
    assert code == 0
    assert json.loads(out)["@type"] == "Agreement"
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["title"] == "Sekisho licence document"
