"""How the documentation is built: MyST pages, the docstrings, and links to torch's where there is a network."""

import urllib.request

import forgetting

project = "forgetting"
author = "The authors of forgetting"
copyright = author
release = getattr(forgetting, "__version__", "0.1.0")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Cost", "Reference", "Differs"]

html_theme = "pydata_sphinx_theme"
html_title = "forgetting"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {page: [] for page in ("start", "conventions", "api")}
html_show_sourcelink = False


def reachable(pages: dict[str, str]) -> dict[str, tuple[str, None]]:
    """The other projects whose index of names answers; without a network none, and the links stay plain text."""
    found: dict[str, tuple[str, None]] = {}
    for name, address in pages.items():
        try:
            request = urllib.request.Request(f"{address}objects.inv", method="HEAD")
            urllib.request.urlopen(request, timeout=3).close()
        except OSError as error:
            print(f"no links to {name}: {error}")
        else:
            found[name] = (address, None)
    return found


intersphinx_mapping = reachable({
    "torch": "https://docs.pytorch.org/docs/stable/",
    "python": "https://docs.python.org/3/",
})
