"""Decoders: Pillow's, one module a format, with the checks and repairs that each needs."""
