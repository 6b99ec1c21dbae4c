"""The theory as LaTeX: python experiments/export_theory.py --results paper/theory

Writes eq-NN.tex for every equation, and theory.tex: the notebook's text with the equations between
its paragraphs. Where TeX is installed, theory.pdf too.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from original_plan.arguments import parser
from original_plan.equations import EQUATIONS, snippet
from original_plan.latex import document
from original_plan.notebook import cells

# The public API runs models; the atomic write is an internal.
from lowbit.core.files import write_atomic

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quant_noise.py"

if __name__ == "__main__":
    folder = parser(__doc__).parse_args().results
    for equation in EQUATIONS:
        name = equation.tag.replace("'", "-prime")
        write_atomic(folder / f"eq-{name}.tex", snippet(equation).encode())
    prose = [text for kind, text in cells(NOTEBOOK.read_text("utf-8")) if kind == "markdown"]
    write_atomic(folder / "theory.tex", document(prose).encode())
    print(f"snippets {folder}: {len(EQUATIONS)} equations")
    latex = shutil.which("latexmk") or shutil.which("pdflatex")
    if latex is None:
        print(
            "TeX is not installed (latexmk or pdflatex): theory.tex is written, theory.pdf is not"
        )
        sys.exit(0)
    options = ["-pdf", "-interaction=nonstopmode"] if latex.endswith("latexmk") else []
    command = [latex, *options, "theory.tex"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if process.returncode or not (folder / "theory.pdf").is_file():
        sys.exit(f"error: {latex} failed:\n{process.stdout[-2000:]}")
    print(f"pdf      {folder / 'theory.pdf'}")
