"""The site: `make docs` builds it from the Markdown files of this folder, without a network."""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "miro_jax"
author = "the authors of miro_jax"
version = release = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "miro_jax" / "__init__.py").read_text("utf-8"), re.MULTILINE
)[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"  # docstrings mark code by single backticks, as Markdown does

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 6  # `page.md#a-heading`, as on the pages of a repository

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "sphinx_book_theme"
html_title = "miro_jax"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
}


def escape_bars(_app, _what, _name, _obj, _options, lines):
    """Keep |x| of docstrings, an absolute value, from being read as a substitution."""
    for i, line in enumerate(lines):
        parts = line.split("`")  # what is between two backticks is code already
        parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
        lines[i] = "`".join(parts)


def setup(app):
    """Connect the above."""
    app.connect("autodoc-process-docstring", escape_bars)
