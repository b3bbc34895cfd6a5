"""Colour: what a file declares of its colours, ICC profiles, and the conversion to 8-bit sRGB."""
