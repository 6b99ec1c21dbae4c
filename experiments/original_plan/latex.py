"""A derivation's prose as LaTeX, with every equation set below the paragraph that first names it.

Of markdown it knows what the derivation is written in: headings, paragraphs, bold, slanted, code
and formulas between dollars, which TeX takes as they are. All else is text, and escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lowbit.sensitivity.theory.equations import EQUATIONS, Equation, snippet

SPECIAL = re.compile(r"(\$[^$]+\$|`[^`]+`|\*\*.+?\*\*|\*.+?\*)", re.DOTALL)
NAMED = re.compile(r"\((D?\d+'?(?:, D?\d+'?)*)\)")
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
    """The cells of a derivation and all equations as a LaTeX document of its own.

    The first heading is the title; equations that no paragraph names stand at the end.
    """
    first, *rest = _paragraphs(markdown)
    left = {one.tag: one for one in EQUATIONS}
    body = []
    for paragraph in rest:
        body.append(to_tex(paragraph))
        body += [_set(left.pop(tag)) for tag in _tags(paragraph) if tag in left]
    body += [_set(one) for one in left.values()]
    title = f"\\title{{{to_tex(first.removeprefix('# '))}}}\n\\author{{lowbit}}\n\\date{{}}\n"
    whole = ["\\begin{document}\n\\maketitle", *body, "\\end{document}\n"]
    return START + title + "\n\n".join(whole)


def to_tex(paragraph: str) -> str:
    """One paragraph, or one heading."""
    if paragraph.startswith("## "):
        return f"\\section*{{{to_tex(paragraph[3:])}}}"
    return "".join(_piece(piece) for piece in SPECIAL.split(paragraph))


def _piece(text: str) -> str:
    if text.startswith("$"):
        return text
    if text.startswith("`"):
        # A path may be broken where a word would not.
        code = re.sub(r"[/_.]", r"\g<0>\\allowbreak{}", text.strip("`").translate(ESCAPES))
        return f"\\texttt{{{code}}}"
    for mark, command in (("**", "textbf"), ("*", "emph")):
        if text.startswith(mark):
            return f"\\{command}{{{to_tex(text.removeprefix(mark).removesuffix(mark))}}}"
    return text.translate(ESCAPES)


def _paragraphs(markdown: Sequence[str]) -> Iterator[str]:
    return (each for text in markdown for each in text.split("\n\n"))


def _tags(paragraph: str) -> list[str]:
    return [tag for found in NAMED.findall(paragraph) for tag in found.split(", ")]


def _set(one: Equation) -> str:
    """What it says, then itself: one paragraph, so that no page's end parts them."""
    return f"\\emph{{{to_tex(one.says)}}}\n{snippet(one)}"
