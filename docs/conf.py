import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]

import reference  # noqa: E402

from paragone import __version__  # noqa: E402
from paragone._core import catalog  # noqa: E402

project = "paragone"
author = "The paragone maintainers"
copyright = "2026, the paragone maintainers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.md5"]
html_theme = "furo"
html_title = f"paragone {version}"
default_role = "literal"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
suppress_warnings = ["config.cache", "myst.header", "ref.python"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "show_memory": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "image_scrapers": (),
    "reset_modules": ("fresh.reset",),
}


def write_catalogue(app) -> None:
    """One table a family, from catalog.toml, so that the page cannot fall behind."""
    lines = [
        "# The catalogue",
        "",
        "All methods, from each family's `catalog.toml`. *Built* is computed from what imports.",
        "`paragone show METHOD` prints a method's page.",
    ]
    for family in catalog.FAMILIES:
        rows = [method for method in catalog.methods() if method.family == family]
        lines += ["", f"## {family}", "", "| # | method | claim | study | built |"]
        lines += ["|---|---|---|---|---|"]
        for row in rows:
            built = "yes" if not row.missing() else "not yet"
            cells = (row.number, f"`{row.id}`: {row.title}", row.claim, f"`{row.study}`", built)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for row in rows:
            lines += ["", f"### {row.title}", "", row.idea, "", f"$$ {row.equation} $$", ""]
            lines += [f"*Cost:* {row.cost}. *When:* {row.prefer}", ""]
            lines += [f"- {paper}" for paper in row.papers]
    (ROOT / "docs" / "catalogue.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_reference(app) -> None:
    """The API pages, from each package's `__all__`."""
    reference.write(ROOT / "docs" / "api")


def skip_routing(app, what, name, obj, skip, options) -> bool | None:
    """scikit-learn adds `set_fit_request` and its like to every estimator."""
    return True if name.endswith("_request") or name == "get_metadata_routing" else None


def dollars(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings write mathematics between dollars; reStructuredText wants roles."""

    def block(found: re.Match[str]) -> str:
        indent = found[1]
        body = "\n".join(f"{indent}   {line.strip()}" for line in found[2].strip().splitlines())
        return f"\n{indent}.. math::\n\n{body}\n"

    text = re.sub(r"^([ ]*)\$\$(.+?)\$\$", block, "\n".join(lines), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?<![\\$`])\$([^$]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    # A plural right behind a name needs an escape there.
    text = re.sub(r"(?<!`)(`[^`\n]+`)(?=[a-z])", r"\1\\ ", text)
    lines[:] = text.splitlines()


def setup(app) -> None:
    app.connect("autodoc-process-docstring", dollars)
    app.connect("autodoc-skip-member", skip_routing)
    app.connect("builder-inited", write_catalogue)
    app.connect("builder-inited", write_reference)
