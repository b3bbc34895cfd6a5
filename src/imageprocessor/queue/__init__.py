"""Everything that remembers work: job states, the database, dispatch, the one task body and the use cases."""
