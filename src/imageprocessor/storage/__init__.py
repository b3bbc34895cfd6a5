"""Where bytes live: a small Protocol, a module for each backend, and the keys."""
