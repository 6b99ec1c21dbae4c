"""The derivation's text as LaTeX, with each equation below the first paragraph that cites it.

It converts the markdown that the derivation uses: headings, paragraphs, bold, italic, code, and
formulas between dollars, which go to TeX unchanged. Everything else is escaped as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from original_plan.equations import EQUATIONS, Equation, snippet

SPECIAL = re.compile(r"(\$[^$]+\$|`[^`]+`|\*\*.+?\*\*|\*.+?\*)", re.DOTALL)
CITATION = re.compile(r"\((D?\d+'?(?:, D?\d+'?)*)\)")
"""(12), (D2') or (16, 17)."""
ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "×": r"$\times$", **{each: f"${each}$" for each in "<>|"},
    **{each: f"\\{each}" for each in "&%$#_{}"},
})  # fmt: skip
START = r"""\documentclass[11pt]{article}
\usepackage{amsmath,amssymb}
\usepackage[margin=25mm]{geometry}
\setlength{\parindent}{0pt}\setlength{\parskip}{6pt plus 2pt}
\emergencystretch=2em
\AtBeginDocument{\abovedisplayskip=3pt plus 2pt \belowdisplayskip=3pt plus 2pt}
"""


def document(markdown: Sequence[str]) -> str:
    """A derivation's markdown cells and all equations as a complete LaTeX document.

    The first heading is the title. Equations that no paragraph cites are at the end.
    """
    first, *rest = _paragraphs(markdown)
    remaining = {equation.tag: equation for equation in EQUATIONS}
    body = []
    for paragraph in rest:
        body.append(to_tex(paragraph))
        body += [_set(remaining.pop(tag)) for tag in _tags(paragraph) if tag in remaining]
    body += [_set(equation) for equation in remaining.values()]
    title = f"\\title{{{to_tex(first.removeprefix('# '))}}}\n\\author{{lowbit}}\n\\date{{}}\n"
    whole = ["\\begin{document}\n\\maketitle", *body, "\\end{document}\n"]
    return START + title + "\n\n".join(whole)


def to_tex(paragraph: str) -> str:
    """A paragraph or a heading as LaTeX."""
    if paragraph.startswith("## "):
        return f"\\section*{{{to_tex(paragraph[3:])}}}"
    return "".join(_piece(piece) for piece in SPECIAL.split(paragraph))


def _piece(text: str) -> str:
    if text.startswith("$"):
        return text
    if text.startswith("`"):
        # A path may be broken at its separators, a word may not.
        code = re.sub(r"[/_.]", r"\g<0>\\allowbreak{}", text.strip("`").translate(ESCAPES))
        return f"\\texttt{{{code}}}"
    for mark, command in (("**", "textbf"), ("*", "emph")):
        if text.startswith(mark):
            return f"\\{command}{{{to_tex(text.removeprefix(mark).removesuffix(mark))}}}"
    return text.translate(ESCAPES)


def _paragraphs(markdown: Sequence[str]) -> Iterator[str]:
    return (each for text in markdown for each in text.split("\n\n"))


def _tags(paragraph: str) -> list[str]:
    return [tag for citation in CITATION.findall(paragraph) for tag in citation.split(", ")]


def _set(equation: Equation) -> str:
    """Its description and the equation as one paragraph, so that no page break separates them."""
    return f"\\emph{{{to_tex(equation.says)}}}\n{snippet(equation)}"
