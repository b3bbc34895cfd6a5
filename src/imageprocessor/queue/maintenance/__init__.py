"""Repairs, checks and backups, run by a timer or by an operator."""
