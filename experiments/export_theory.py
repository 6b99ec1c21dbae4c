"""The theory as LaTeX: python experiments/export_theory.py --results paper/theory

Writes eq-NN.tex for every equation and theory.tex, the notebook's prose with all of them between
its paragraphs; theory.pdf where TeX is there.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from original_plan.arguments import parser
from original_plan.latex import document
from original_plan.notebook import cells

from lowbit.core.files import write_atomic
from lowbit.sensitivity.theory.equations import EQUATIONS, snippet

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quant_noise.py"

if __name__ == "__main__":
    folder = parser(__doc__).parse_args().results
    for one in EQUATIONS:
        name = one.tag.replace("'", "-prime")
        write_atomic(folder / f"eq-{name}.tex", snippet(one).encode())
    prose = [text for kind, text in cells(NOTEBOOK.read_text("utf-8")) if kind == "markdown"]
    write_atomic(folder / "theory.tex", document(prose).encode())
    print(f"snippets {folder}: {len(EQUATIONS)} equations")
    latex = shutil.which("latexmk") or shutil.which("pdflatex")
    if latex is None:
        print("no TeX here (latexmk or pdflatex): theory.tex is written, theory.pdf is not")
        sys.exit(0)
    words = ["-pdf", "-interaction=nonstopmode"] if latex.endswith("latexmk") else []
    done = subprocess.run([latex, *words, "theory.tex"], cwd=folder, capture_output=True, text=True)
    if done.returncode or not (folder / "theory.pdf").is_file():
        sys.exit(f"error: {latex} failed:\n{done.stdout[-2000:]}")
    print(f"pdf      {folder / 'theory.pdf'}")
