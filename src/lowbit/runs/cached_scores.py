"""Scores untrained models, and caches their scores.

Every gap needs the scores of the 16-bit model, which never change. Each evaluation is a file whose
name is a hash of everything that the scores depend on: weights, data, the format of every site,
device, compute type, versions. The file holds a sum and a count for each example.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from lowbit.core.array_store import Arrays, load_or_compute
from lowbit.core.cache import cache_dir
from lowbit.core.files import file_digest
from lowbit.core.stats import paired_gap
from lowbit.quant.formats import spell
from lowbit.runs.build import BuiltModel, build_untrained, planned_sites
from lowbit.runs.comparison import Comparison, UntrainedScores
from lowbit.runs.device import Machine
from lowbit.runs.export import peft
from lowbit.runs.prepare import Prepared
from lowbit.runs.record import ADAPTER
from lowbit.runs.record_fields import facts_of
from lowbit.runs.rounding import rounded_sites
from lowbit.train.evaluate import evaluate

EVALUATION = 3
"""Increase whenever the same model would be scored differently."""


def compare_with_16_bits(prepared: Prepared, machine: Machine, part: str = "scored") -> Comparison:
    """Score the plan's model and the 16-bit model on a part of the data, both untrained."""
    plan = untrained_scores(prepared, machine, part)
    plan_16_bit = replace(prepared.spec.plan, format="bf16", embedding="bf16", rule=())
    plain = replace(plan_16_bit, rounding="nearest")
    full = untrained_scores(prepared.with_plan(plain), machine, part)
    pairs = (plan.sums, plan.counts, full.sums, full.counts)
    gap = paired_gap(*pairs, plan.documents, np.random.default_rng(0))
    return Comparison(plan, full, gap)


def untrained_scores(
    prepared: Prepared,
    machine: Machine,
    part: str = "scored",
    adapter_from: Path | None = None,
) -> UntrainedScores:
    """The scores of a model in the plan's formats, without training.

    `adapter_from`: the folder of a finished run; its adapter is attached before scoring.
    """
    planned, task = planned_sites(prepared), prepared.task
    key = _key(prepared, machine, planned, part, adapter_from)
    path = cache_dir() / "evaluations" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def evaluated() -> Arrays:
        adapter = None if adapter_from is None else peft.read(adapter_from / ADAPTER)
        return _score_arrays(build_untrained(prepared, machine, adapter), prepared, part)

    arrays, count = dict(load_or_compute(path, key, evaluated)), planned.count
    loss = float(arrays.pop("loss")[0])
    stored = count.base + count.other
    return UntrainedScores(task.metric, task.better, loss, **arrays, stored=stored)


def _key(
    prepared: Prepared,
    machine: Machine,
    planned: BuiltModel,
    part: str,
    adapter_from: Path | None,
) -> str:
    """Everything that the scores depend on."""
    facts = facts_of(prepared, machine)
    about = [
        facts.device,
        facts.compute,
        facts.cpu,
        facts.simd,
        facts.torch,
        facts.transformers,
        facts.decoder,
    ]
    formats = {name: spell(choice.quant) for name, choice in planned.choices.items()}
    adapter = "" if adapter_from is None else file_digest(adapter_from / ADAPTER / peft.WEIGHTS)
    batch = prepared.spec.train.eval_batch
    key = [EVALUATION, facts.weights, facts.data, part, batch, adapter, formats, about]
    rounded = sorted(n for n, c in planned.choices.items() if c.rounding != "nearest")
    return json.dumps([*key, rounded_sites.VERSION, rounded] if rounded else key)


def _score_arrays(built: BuiltModel, prepared: Prepared, part: str) -> Arrays:
    examples, batch = prepared.data.parts[part], prepared.spec.train.eval_batch
    device = next(built.model.parameters()).device
    scores, loss = evaluate(built.model, examples, prepared.kind, batch, device)
    return {
        "loss": np.array([loss]),
        "sums": np.array([s for s, _ in scores]),
        "counts": np.array([c for _, c in scores], float),
        "documents": np.array([example.document for example in examples], float),
        "words": np.array([example.words for example in examples], float),
    }
