"""Running statements that are built once, at import: those of each status check, upload and job.

On SQLite they bypass SQLAlchemy and run on the driver's connection, in the same transaction: a
status check's read takes 65 µs of CPU time instead of 175, an upload's transaction 980 instead of
1400 (`python -m benchmarks.prepared`). Through SQLAlchemy alone, a status check costs 2.3 times as
much as the bare route instead of 1.7 times, an upload 2.1 times instead of 1.6, and both miss
their budgets (`python -m benchmarks service`). A job of 320 × 240 px misses its budget, too: claim
and completion would take 6.4 ms of CPU time instead of 2.4 (`python -m benchmarks workers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError


def execute(connection: Connection, statement: Executable, parameters: Mapping[str, Any]) -> None:
    """Run *statement*; an INSERT sets the columns that *parameters* name."""
    if connection.dialect.name == "sqlite":
        _run_on_driver(connection, statement, parameters)
    else:
        connection.execute(statement, parameters)


def fetch_first(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Run *statement* and return its first row, or None if there is none."""
    rows = fetch_all(connection, statement, parameters)
    return rows[0] if rows else None


def fetch_all(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Run *statement* and return its rows."""
    if connection.dialect.name == "sqlite":
        return _run_on_driver(connection, statement, parameters)
    return [dict(row) for row in connection.execute(statement, parameters).mappings()]


def _run_on_driver(
    connection: Connection, statement: Executable, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    dialect = connection.dialect
    sql = _compile(statement, dialect, tuple(parameters))
    driver: Any = connection.connection.dbapi_connection
    try:
        cursor = driver.execute(sql, parameters)
        rows = cursor.fetchall()
    except dialect.loaded_dbapi.Error as error:
        driver_error = dialect.loaded_dbapi.Error
        raise DBAPIError.instance(sql, None, error, driver_error, dialect=dialect) from error
    if not rows:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


@cache
def _compile(statement: Any, dialect: Dialect, names: tuple[str, ...]) -> str:
    return str(statement.compile(dialect=dialect, column_keys=names))
