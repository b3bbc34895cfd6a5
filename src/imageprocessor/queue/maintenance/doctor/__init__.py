"""Checks a set-up by trying it. Nothing is changed, and nothing is left behind."""
