"""PostgreSQL: one server for any number of hosts, with a timeout on every wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from imageprocessor.errors import MissingExtraError, SettingsError

DISK_FULL = "53100"  #: an SQLSTATE
TIMEOUTS = {
    "lock_timeout": "5s",  # as long as SQLite's busy timeout
    "statement_timeout": "30s",  # every statement uses an index: none takes that long
    "idle_in_transaction_session_timeout": "30s",  # a frozen host must not keep its locks
}
KEEPALIVES = {
    "tcp_keepalives_idle": "60",  # a host that is gone must not keep a connection for two hours
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
#: sent once on each direct connection
SET_UP_SESSION = "; ".join(
    f"SET {name} = '{value}'" for name, value in (TIMEOUTS | KEEPALIVES).items()
)
#: sent in one round trip at the start of each transaction behind a pooler
BEGIN_POOLED = "; ".join(
    [
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        *(f"SET LOCAL {name} = '{value}'" for name, value in TIMEOUTS.items()),
    ]
)
CONNECT: dict[str, Any] = {
    "application_name": "imageprocessor",  # in pg_stat_activity
    "connect_timeout": 5,
    "keepalives_idle": 10,  # a server that vanished is noticed within half a minute
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds; keepalives pause while data is unacknowledged
}
#: connections of one process; docs/capacity.md adds them up for all hosts
POOL_SIZE = 10
#: key in the `info` of a connection: whether a pooler is between it and the server
IS_POOLED = "is_pooled"

UPGRADE = "It lacks tables of this version. Run: imageprocessor db upgrade"
READ_ONLY = "It is read-only, or a standby. Set DATABASE_URL to the primary server."
LOG_IN = (
    "Correct user, password and database in DATABASE_URL (or DATABASE_DIRECT_URL), or create them "
    "on the server."
)
#: what to do about an SQLSTATE that does not pass by itself
REMEDIES = {
    "25006": READ_ONLY,
    "42P01": UPGRADE,  # undefined_table
    "42703": UPGRADE,  # undefined_column
    "42501": "Grant the user of DATABASE_URL all rights on the tables.",
}
#: a failed connection has no SQLSTATE
REFUSALS = re.compile(
    r"authentication failed|no pg_hba\.conf entry|(role|database) .* does not exist"
    r"|no such (user|database)"  # PgBouncer
)


@dataclass(frozen=True, slots=True)
class PostgresConnections:
    """A bounded pool of connections to one server, or to a pooler such as PgBouncer before it.

    A pooler gives each transaction another session. So nothing here may rely on what a session
    keeps: settings, prepared statements, advisory locks, temporary tables, LISTEN.
    """

    engine: Engine

    @property
    def place(self) -> str:
        """The database, for messages."""
        return name_database(self.engine.url)

    def find_remedy(self, message: str, sqlstate: str | None) -> str | None:
        """Return what to do about the server's error; None if it may pass by itself."""
        if sqlstate is None and REFUSALS.search(message):
            return LOG_IN
        return REMEDIES.get(sqlstate or "")

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """Yield a connection on which every statement sees the newest commit.

        It is outside any transaction, except behind a pooler, where timeouts need one.
        """
        with self.engine.connect() as connection:
            if not _begin_pooled(connection):
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def writer(self, durable: bool) -> Iterator[Connection]:
        """Yield a connection inside a transaction; unless *durable*, its commit is not flushed."""
        with self.engine.begin() as connection:
            _begin_pooled(connection)
            if not durable:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    def flush(self) -> None:
        """Do nothing: a commit that can be read has been flushed, unless its writer waived that."""

    def close(self) -> None:
        """Close the connections that no thread uses."""
        self.engine.dispose()


def open_postgres(url: str) -> PostgresConnections:
    """Return connections to the server that *url* names.

    Options in the URL's query replace those of :data:`CONNECT`; ``options`` replaces the timeouts.

    Raises:
        SettingsError: *url* is not a URL.
        MissingExtraError: psycopg, or the library it needs, is not installed.
    """
    parsed = _parse(url)
    options = {name: value for name, value in CONNECT.items() if name not in parsed.query}
    try:
        engine = create_engine(
            parsed,
            connect_args=options,
            pool_pre_ping=True,  # after a restart of the server, old connections are replaced
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=5,  # a transaction takes milliseconds: a longer wait means trouble
        )
    except ImportError as error:
        raise MissingExtraError("DATABASE_URL=postgresql+psycopg://…", "postgres") from error
    event.listen(engine, "connect", _find_pooler)
    if "options" not in parsed.query:
        event.listen(engine, "connect", _set_up_session)
    return PostgresConnections(engine)


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler, such as PgBouncer, is between *connection* and the server."""
    return bool(connection.info[IS_POOLED])


def _find_pooler(driver: Any, record: ConnectionPoolEntry) -> None:
    """Note whether a pooler answered, and do without prepared statements if so.

    When a client connects, a server sends its process id; a pooler sends a number of its own. On a
    direct connection, prepared statements save a third to a half of PostgreSQL's CPU time: 1.3 ms
    instead of 2.0 for a claim.
    """
    driver.autocommit = True
    (server_pid,) = driver.execute("SELECT pg_backend_pid()").fetchone()
    record.info[IS_POOLED] = server_pid != driver.info.backend_pid
    if record.info[IS_POOLED]:
        driver.prepare_threshold = None  # and stays in autocommit: `BEGIN_POOLED` begins
    else:
        driver.autocommit = False


def _set_up_session(driver: Any, record: ConnectionPoolEntry) -> None:
    """Set the timeouts of a direct connection once, which costs nothing later."""
    if not record.info[IS_POOLED]:
        driver.execute(SET_UP_SESSION)
        driver.commit()


def _begin_pooled(connection: Connection) -> bool:
    """Begin a transaction with timeouts of its own if a pooler is in between; return whether.

    The transaction ends when *connection* is committed or returned to the pool.
    """
    pooled = is_pooled(connection)
    if pooled:
        connection.exec_driver_sql(BEGIN_POOLED)
    return pooled


def name_database(url: str | URL) -> str:
    """Return *url* in the form that PostgreSQL's own programs accept, without the password.

    >>> name_database("postgresql+psycopg://me:secret@db.example.org/images")
    'postgresql://me@db.example.org/images'
    """
    parsed = (url if isinstance(url, URL) else _parse(url)).difference_update_query(["password"])
    return parsed._replace(drivername="postgresql", password=None).render_as_string()


def _parse(url: str) -> URL:
    """Parse *url*; never repeat it in an error, because it may contain a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise SettingsError(
            "DATABASE_URL=(hidden): not a URL. Write postgresql+psycopg://user:password@host:5432/name,"
            " with special characters in the password percent-encoded, such as %40 for @."
        )
    return parsed
