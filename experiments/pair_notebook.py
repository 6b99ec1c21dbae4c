"""Make quant_noise.ipynb from quant_noise.py: python experiments/pair_notebook.py"""

from pathlib import Path

from original_plan.notebook import to_notebook

from lowbit.core.files import write_atomic

if __name__ == "__main__":
    root = Path(__file__).parent.parent / "notebooks"
    text = (root / "quant_noise.py").read_text(encoding="utf-8")
    write_atomic(root / "quant_noise.ipynb", to_notebook(text).encode())
    print(f"notebook {root / 'quant_noise.ipynb'}")
