"""Everything that remembers work.

Job states, the database, dispatch, the one task body and the use cases.
"""
