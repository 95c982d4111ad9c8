"""The embedded stores: private, on unix sockets, and clear about what is wrong with their data."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio

from gateway.up.failure import UpError
from gateway.up.folder import DataFolder
from gateway.up.leftovers import end_leftovers, started_ticks
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL, Valkey


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[tuple[DataFolder, Path]]:
    """A data folder below one that nobody else may enter, as a home or a temporary folder is, and its sockets."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data = DataFolder.at(closed / "data")
    data.prepare()
    with data.sockets(others_pass=os.geteuid() == 0) as sockets:
        yield data, sockets


async def test_postgresql_serves_from_a_folder_that_only_we_may_enter(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    server = PostgreSQL.of(data, sockets, dict(os.environ))
    assert await server.prepare()
    child = await Child.start(server.command())
    try:
        assert (await server.until_ready(child)).startswith("18.")
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SELECT current_database()") == "sekisho"
        assert await connection.fetchval("SHOW listen_addresses") == ""
        await connection.close()
        processes = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        assert all(process.uids().effective != 0 for process in processes)
        pids = {process.pid for process in processes}
        assert [c for c in psutil.net_connections(kind="inet") if c.pid in pids] == []
        assert len(os.fsencode(sockets / "pg" / ".s.PGSQL.5432")) < 100
        assert data.root.parent.stat().st_mode & 0o777 == 0o700  # nobody's folder was opened for its sake
    finally:
        await child.stop()
    assert await child.wait() == 0


async def test_crashed_server_is_ended_and_its_cluster_serves_again(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    server = PostgreSQL.of(data, sockets, dict(os.environ))
    await server.prepare()
    child = await Child.start(server.command())
    await server.until_ready(child)
    # the record is lost, so only the cluster's own pid file leads to the server
    assert end_leftovers(data.record_file, data.cluster) == ["postgresql"]
    await child.wait()
    assert started_ticks(child.pid) is None
    # and a crash leaves a pid file whose pid is some other program's by now
    (data.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{data.cluster}\n")
    for left in server.sockets.iterdir():
        left.unlink()
    server.sockets.rmdir()
    assert not await server.prepare()
    child = await Child.start(server.command())
    await server.until_ready(child)
    await child.stop()


async def test_cluster_that_was_never_finished_is_made_again(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    (data.root / "pg.new").mkdir()
    (data.root / "pg.new" / "PG_VERSION").write_text("18\n")
    server = PostgreSQL.of(data, sockets, dict(os.environ))
    assert await server.prepare()
    assert (data.cluster / "global" / "pg_control").exists()
    assert not (data.root / "pg.new").exists()


async def test_cluster_of_another_postgresql_is_refused_with_both_versions(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    data.cluster.mkdir()
    (data.cluster / "PG_VERSION").write_text("19\n")
    with pytest.raises(UpError, match=r"made by PostgreSQL 19 and this is PostgreSQL 18; use the Sekisho release"):
        await PostgreSQL.of(data, sockets, dict(os.environ)).prepare()


async def test_folder_that_is_no_cluster_is_refused(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    data.cluster.mkdir()
    with pytest.raises(UpError, match="no database cluster"):
        await PostgreSQL.of(data, sockets, dict(os.environ)).prepare()


async def test_valkey_keeps_its_data_over_a_kill_and_listens_on_no_port(folder: tuple[DataFolder, Path]) -> None:
    from redis.asyncio import Redis

    data, sockets = folder
    server = Valkey.of(data, sockets, dict(os.environ))
    child = await Child.start(server.command())
    await server.until_ready(child)
    client = Redis.from_url(server.url)
    await client.config_set("appendfsync", "always")  # instead of within a second
    await client.set("hold", "1")
    await client.aclose()
    assert psutil.Process(child.pid).net_connections(kind="inet") == []
    assert server.socket.stat().st_mode & 0o777 == 0o600
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    child = await Child.start(server.command())
    await server.until_ready(child)
    client = Redis.from_url(server.url)
    assert await client.get("hold") == b"1"
    await client.aclose()
    await child.stop()


async def test_valkey_that_cannot_read_its_data_says_what_to_remove(folder: tuple[DataFolder, Path]) -> None:
    data, sockets = folder
    broken = data.part("valkey") / "appendonlydir"
    broken.mkdir()
    (broken / "appendonly.aof.manifest").write_text("nonsense\n")
    server = Valkey.of(data, sockets, dict(os.environ))
    child = await Child.start(server.command())
    with pytest.raises(UpError, match=r"or remove .*valkey, which is rebuilt from the journal"):
        await server.until_ready(child)
