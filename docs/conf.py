"""Sphinx configuration: `make docs` builds these pages into build/docs, with warnings as errors."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

project = "transformers_vjepa"
author = "the authors of transformers_vjepa"
copyright = author
try:
    release = metadata.version("transformers_vjepa")
except metadata.PackageNotFoundError:  # read from a source tree that is not installed
    release = ""

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "package_reference"]
exclude_patterns = ["**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "transformers_vjepa"
html_show_copyright = False

# Links such as masks.md#what-is-cut, as GitHub understands them.
myst_heading_anchors = 3
# Notebooks are shown with the outputs that are stored in them; tests run them.
nb_execution_mode = "off"

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
