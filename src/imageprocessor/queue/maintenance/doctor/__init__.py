"""Checks an installation by trying it, without changing it or leaving anything behind."""
