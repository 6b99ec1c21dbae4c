"""Fetch the documents' model into the hub's cache: python experiments/download_model.py

Weights as safetensors only. Without a network, `--model FOLDER` of the other scripts takes a copy.
"""

import sys

from original_plan.arguments import parser
from original_plan.fine_tune import HUB

from lowbit.core.errors import LowbitError
from lowbit.models.loading import open_checkpoint
from lowbit.runs.demo_model import model_folder

INSTEAD = "--model FOLDER of run_ft.py and run_experiment.py"

if __name__ == "__main__":
    words = parser(__doc__)
    words.add_argument("--model", default=HUB)
    try:
        found = model_folder(words.parse_args().model, instead=INSTEAD)
        print(f"model  {open_checkpoint(found).folder}")
    except LowbitError as error:
        sys.exit(f"error: {error}")
