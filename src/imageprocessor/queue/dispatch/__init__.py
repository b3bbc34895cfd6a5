"""How a waiting job is announced."""
