"""The documentation site: Sphinx, MyST and furo. Built strictly by `make docs`.

The pages are the markdown files of `docs/`, which are read on the repository as they are. What a site needs beside them stands
in `docs/site.py`. Nothing is fetched: no fonts, no inventories of other sites.
"""

from __future__ import annotations

import sys
from pathlib import Path

import stateregistry

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the extension beside this file

project = "stateregistry"
author = "the authors of stateregistry"
copyright = author  # noqa: A001  # the name that Sphinx reads
version = release = stateregistry.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "site_parts",
]
root_doc = "index"
source_suffix = {".md": "markdown"}
nitpicky = True
#: Annotations name types of other packages, names that are imported for types alone, and values inside of what is public.
nitpick_ignore_regex = [
    ("py:.*", r"(?!stateregistry\.).*"),
    ("py:class", r"stateregistry\.(conversion\.(side|planning\.spectral)|layers\.axes|streaming)\..*"),
    ("py:class", r"stateregistry\.(plugins\.T|display\.Displayed|layers\.vocabulary\.Holder)"),
]

myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 4

# Docstrings are plain text with `code` in single backquotes.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"stateregistry {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
