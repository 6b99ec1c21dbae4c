"""Download the original plan's model to the hub's cache: python experiments/download_model.py

Only safetensors weights are downloaded. Without a network, pass a copy of the model's folder to the
other scripts with `--model FOLDER`.
"""

import sys

from original_plan.arguments import parser
from original_plan.fine_tune import HUB

from lowbit import LowbitError

# The public API loads models only to run them; this script downloads one and runs nothing.
from lowbit.models.checkpoint import open_checkpoint
from lowbit.runs.demo_model import model_folder

FOLDER_OPTION = "--model FOLDER of run_ft.py and run_experiment.py"

if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model", default=HUB, help="a hub id")
    arguments = options.parse_args()
    try:
        path = model_folder(arguments.model, instead=FOLDER_OPTION)
        print(f"model  {open_checkpoint(path).folder}")
    except LowbitError as error:
        sys.exit(f"error: {error}")
