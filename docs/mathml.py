"""Equations as MathML, which browsers draw themselves: no script, and nothing from a network."""

import html

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

CONVERTER = LatexToMathML(fancy_error=False)
logger = logging.getLogger(__name__)


def convert(node: nodes.Element, display: bool) -> str:
    """Returns the MathML of a node; what is no formula is warned of, and shown as it stands."""
    try:
        return CONVERTER.convert_with_local_state(node.astext(), displaystyle=display)
    except LatexError as error:
        logger.warning("%s, in the formula %r", error, node.astext(), location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def inline(translator, node: nodes.math) -> None:
    """Writes a formula within a line."""
    translator.body.append(convert(node, display=False))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    """Writes a formula on lines of its own, with its number where it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(convert(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app) -> dict[str, bool]:
    """Makes this the renderer of formulas."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
