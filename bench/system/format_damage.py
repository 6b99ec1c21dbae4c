"""What each format does to a model with all of its block matrices in it, untrained.

    python bench/system/format_damage.py MODEL FORMAT ...

Prints the bits per weight, the KL and the change of the loss in nats, on 2,048 tokens of the
selection part of WikiText-2 (`LOWBIT_ASSETS`), with nearest rounding. Results are cached.
"""

from __future__ import annotations

import sys

from lowbit.models.family import find_sites
from lowbit.models.skeleton import skeleton
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.formats import parse
from lowbit.runs.device import open_machine
from lowbit.runs.prepare import prepare_run
from lowbit.runs.request import single_run
from lowbit.sensitivity.measure import OutputChanges
from lowbit.sensitivity.table import Calibration

TOKENS = 2048


def main() -> None:
    model, *formats = sys.argv[1:]
    spec, execution = single_run(model, "wikitext2", "bf16", 0, {"execution.threads": 2})
    open_machine(execution, "fp32")
    prepared = prepare_run(spec)
    sites = find_sites(skeleton(prepared.checkpoint, "language", 0))
    blocks = [site for site in sites if site.depth is not None]
    weights = sum(site.shape[0] * site.shape[1] for site in blocks)
    with OutputChanges(prepared, Calibration(TOKENS, None, ("selection",))) as changes:
        for text in formats:
            change = changes.of({site.name: text for site in blocks})
            size = sum(matrix_bytes(parse(text), site.shape).total for site in blocks)
            print(
                f"{text:<16} {8 * size / weights:6.3f} bits  KL {change.kl:8.4f} "
                f"± {2 * change.kl_spread:.4f}  loss {change.loss:+.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
