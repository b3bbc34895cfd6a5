"""Sphinx configuration; build with `nox -s docs`. Neither building nor reading needs internet."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "imageprocessor"
version = release = installed_version("imageprocessor")

extensions = ["myst_parser"]
myst_heading_anchors = 3
smartquotes = False  # would join the hyphens of --options
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "imageprocessor"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
