"""The admin pages: what the service does, and what an operator can do about it."""
