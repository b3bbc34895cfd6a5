"""Bytes in, values out: nothing here knows of paths, clocks, networks or databases."""
