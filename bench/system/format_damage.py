"""What each format does to a model with all of its block matrices in it, untrained.

    python bench/system/format_damage.py MODEL FORMAT ...

For a language model: the bits per weight, the KL and the change of the loss in nats, on 2,048
tokens of the selection part of WikiText-2 (`LOWBIT_ASSETS`). For an encoder without a head: how
much its last hidden states change on 256 sentences of SST-2, as a share of their square. Rounding
is nearest. Results of language models are cached.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec, Site
from lowbit.models.family import find_sites
from lowbit.models.skeleton import skeleton
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.runs.device import open_machine
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.runs.request import single_run
from lowbit.sensitivity.measure import OutputChanges
from lowbit.sensitivity.table import Calibration
from lowbit.tasks.batching import batches
from lowbit.train.losses import hidden_of

TOKENS, SENTENCES = 2048, 256


def main() -> None:
    model, *formats = sys.argv[1:]
    spec, execution = _request(model, "wikitext2")
    open_machine(execution, "fp32")
    prepared = prepare_run(spec)
    if prepared.checkpoint.config.model_type == "bert":
        prepared = prepare_run(_request(model, "sst2")[0])
        show(prepared, formats, hidden_changes(prepared))
        return
    with OutputChanges(prepared, Calibration(TOKENS, None, ("selection",))) as changes:

        def damage(text: str, blocks: list[Site]) -> str:
            change = changes.of({site.name: text for site in blocks})
            return f"KL {change.kl:8.4f} ± {2 * change.kl_spread:.4f}  loss {change.loss:+.4f}"

        show(prepared, formats, damage)


def _request(model: str, task: str) -> tuple[RunSpec, Execution]:
    return single_run(model, task, "bf16", 0, {"execution.threads": 2})


def show(prepared: Prepared, formats: list[str], damage: Callable[[str, list[Site]], str]) -> None:
    """A line for each format."""
    sites = find_sites(skeleton(prepared.checkpoint, prepared.kind, prepared.labels))
    blocks = [site for site in sites if site.depth is not None]
    weights = sum(site.shape[0] * site.shape[1] for site in blocks)
    for text in formats:
        size = sum(matrix_bytes(parse(text), site.shape).total for site in blocks)
        print(f"{text:<16} {8 * size / weights:6.3f} bits  {damage(text, blocks)}", flush=True)


@torch.no_grad()
def hidden_changes(prepared: Prepared) -> Callable[[str, list[Site]], str]:
    """The change of an encoder's last hidden states, for a format in all blocks."""
    from lowbit.models.loading import load

    model = load(prepared.checkpoint, prepared.kind, prepared.labels).float().eval()
    part = prepared.data.parts["selection"][:SENTENCES]
    text = list(batches(part, 32, list(range(len(part)))))
    exact = torch.cat([hidden_of(model, batch)[0] for batch in text])
    scale = float((exact - exact.mean(0)).square().sum())

    @torch.no_grad()
    def damage(name: str, blocks: list[Site]) -> str:
        kept = {}
        for site in blocks:
            weight = model.get_submodule(site.name).weight
            kept[site.name] = weight.data
            weight.data = decode(encode(weight.data, parse(name)))
        changed = torch.cat([hidden_of(model, batch)[0] for batch in text])
        for site in blocks:
            model.get_submodule(site.name).weight.data = kept[site.name]
        return f"hidden states {float((changed - exact).square().sum()) / scale:.5f}"

    return damage


if __name__ == "__main__":
    main()
