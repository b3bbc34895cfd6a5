"""Database connections, tables, migrations, and times as text."""
