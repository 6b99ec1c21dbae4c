"""What a model scores before any training, as a plan stores it: asked again and again, so kept.

The 16-bit model is what every gap is measured against, and it does not change. A file an
evaluation, named by everything that the scores depend on: weights, data, the format of every
site, device, compute type, versions. Only sums and counts are kept, one pair an example.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from lowbit.runs import device as machine
from lowbit.core.array_store import Arrays, remembered
from lowbit.core.cache import cache_dir
from lowbit.core.execution import Execution
from lowbit.core.files import digest
from lowbit.core.spec import RunSpec
from lowbit.core.stats import Floats, Gap, paired_gap, ratio
from lowbit.runs.export import peft
from lowbit.quant.formats import spell
from lowbit.runs.prepare import (Prepared, prepare_run, weights_digest)
from lowbit.runs.build import (Installed, install_bare, plan_sites)
from lowbit.runs.record import ADAPTER
from lowbit.train.evaluate import evaluate

EVALUATION = 3
"""To be raised whenever the same model would be scored differently."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a part, each array (examples,); `stored` is the bytes of the model at rest."""

    metric: str
    better: str
    loss: float
    sums: Floats
    counts: Floats
    documents: Floats
    words: Floats
    stored: int

    @property
    def value(self) -> float:
        return float(ratio(self.sums, self.counts))


@dataclass(frozen=True)
class Compared:
    """A stored model beside the 16-bit one, paired by document."""

    found: Evaluation
    sixteen: Evaluation
    gap: Gap


def compared(spec: RunSpec, execution: Execution, part: str = "scored") -> Compared:
    """The plan's model and the 16-bit one on a part, neither of them trained."""
    found = evaluated(spec, execution, part)
    plain = replace(spec.plan, format="bf16", embedding="bf16", rule=())
    sixteen = evaluated(replace(spec, plan=plain), execution, part)
    pair = (found.sums, found.counts, sixteen.sums, sixteen.counts)
    return Compared(found, sixteen, paired_gap(*pair, found.documents, np.random.default_rng(0)))


def evaluated(
    spec: RunSpec, execution: Execution, part: str = "scored", at: Path | None = None
) -> Evaluation:
    """The scores of a model that is stored as the spec's plan says, and not trained.

    `at`: a finished run, whose adapter it is scored with.
    """
    device, compute = machine.set_up(execution, spec.train.compute)
    start = prepare_run(spec)
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    facts = machine.facts(device, compute, execution, start.data.fingerprint, "", ())
    about = [
        facts.device,
        compute,
        facts.cpu,
        facts.simd,
        facts.torch,
        facts.transformers,
        facts.decoder,
    ]
    formats = {name: spell(choice.quant) for name, choice in planned.choices.items()}
    weights = weights_digest(start.checkpoint)
    where = "" if at is None else digest(at / ADAPTER / peft.WEIGHTS)
    known = [EVALUATION, weights, facts.data, part, spec.train.eval_batch, where]
    key = json.dumps([*known, formats, about])
    path = cache_dir() / "evaluations" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def make() -> Arrays:
        lent = None if at is None else peft.read(at / ADAPTER)
        made = install_bare(spec, start, execution, device, compute, lent)
        return _scored(made, start, spec, part)

    arrays, count, task = dict(remembered(path, key, make)), planned.count, start.task
    loss = float(arrays.pop("loss")[0])
    stored = count.base + count.other
    return Evaluation(task.metric, task.better, loss, **arrays, stored=stored)


def _scored(made: Installed, start: Prepared, spec: RunSpec, part: str) -> Arrays:
    examples = start.data.parts[part]
    device = next(made.model.parameters()).device
    found, loss = evaluate(made.model, examples, start.task.kind, spec.train.eval_batch, device)
    return {
        "loss": np.array([loss]),
        "sums": np.array([s for s, _ in found]),
        "counts": np.array([c for _, c in found], float),
        "documents": np.array([example.document for example in examples], float),
        "words": np.array([example.words for example in examples], float),
    }
