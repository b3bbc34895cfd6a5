"""Object storage: a small Protocol, one module per backend, and the keys."""
