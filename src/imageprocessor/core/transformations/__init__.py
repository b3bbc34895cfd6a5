"""Transformations: the operations on an image, how they are written, and how they are applied."""
