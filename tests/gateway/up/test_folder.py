"""The data folder: privacy, the lock, short socket paths."""

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from gateway.up import folder as folder_module
from gateway.up.failure import UpError
from gateway.up.folder import DataFolder, write_private_json


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_parts_are_closed_to_others_also_when_they_were_open(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    data = DataFolder.at(tmp_path)
    data.prepare()
    assert {_mode(data.part(name)) for name in ("secrets", "logs", "valkey", "served")} == {0o700}


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UpError) as caught:
        DataFolder.at(tmp_path / "file" / "data").prepare()
    assert "cannot be used" in str(caught.value)
    assert "DATA_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "DISK_BYTES_MIN", 10**18)
    with pytest.raises(UpError, match="free some space"):
        DataFolder.at(tmp_path).prepare()


def test_second_instance_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    first, second = DataFolder.at(tmp_path), DataFolder.at(tmp_path)
    with first.locked():
        with pytest.raises(UpError) as caught, second.locked():
            pass
        assert f"(pid {os.getpid()})" in str(caught.value)
        assert f"kill {os.getpid()}" in str(caught.value)
    with second.locked():
        assert second.lock_file.read_text() == f"{os.getpid()}\n"


def test_written_json_is_private_and_replaces_a_file_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "up.json"
    path.write_text("old")
    path.chmod(0o644)
    write_private_json(path, {"model": "関所"})
    assert _mode(path) == 0o600
    assert json.loads(path.read_text(encoding="utf-8")) == {"model": "関所"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["up.json"]


def test_socket_paths_stay_short_however_deep_the_clone_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))  # deeper than sockets may lie
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    with DataFolder.at(deep).sockets(others_pass=False) as sockets:
        assert _mode(sockets) == 0o700
        assert len(os.fsencode(sockets / "pg" / ".s.PGSQL.5432.lock")) < 100
    assert not sockets.exists()


def test_two_data_folders_have_different_socket_folders(tmp_path: Path) -> None:
    with (
        DataFolder.at(tmp_path / "a").sockets(others_pass=False) as first,
        DataFolder.at(tmp_path / "b").sockets(others_pass=False) as second,
    ):
        assert first != second


def test_socket_folder_that_somebody_else_has_put_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path(tempfile.mkdtemp(prefix="s"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    data = DataFolder.at(tmp_path)
    trap = short / data.socket_name()
    trap.symlink_to(tmp_path)
    try:
        with pytest.raises(UpError, match="belongs to somebody else"), data.sockets(others_pass=False):
            pass
    finally:
        trap.unlink()
        short.rmdir()


def test_sockets_of_a_killed_run_are_cleared_away(tmp_path: Path) -> None:
    data = DataFolder.at(tmp_path)
    with data.sockets(others_pass=True) as sockets:
        assert _mode(sockets) == 0o711
    sockets.mkdir()
    (sockets / "pg").mkdir()
    (sockets / "pg" / ".s.PGSQL.5432").touch()
    (sockets / "valkey.sock").touch()
    with data.sockets(others_pass=False) as again:
        assert again == sockets
        assert list(again.iterdir()) == []
