"""Measures a model and predicts plans, for a model, a task and plans given by name.

These are the functions of the public API. Torch is imported when they are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec
from lowbit.quant.formats import parse
from lowbit.runs.request import Settings, single_run, without_plan
from lowbit.sensitivity.guide import Guide, advice
from lowbit.sensitivity.predictors import PlanPredictions
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable

FORMATS = ("int8@64", "int6@64", "int5@64", "int4@64", "nf4@64", "int3@64", "int2@64", "ternary@64")
RANKS = (4, 8, 16, 32)
TOKENS = 4096
"""Tokens of calibration text."""
SAMPLES = 4
"""Draws of noise for Hutchinson and Monte Carlo, where they are asked for."""
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
"""Sizes of training data, in tokens or sentences."""

OnProgress = Callable[[str, int, int], None]
"""Called with the name of a phase, the steps done and all steps."""


def ignore_progress(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def measure(
    model: str | Path,
    task: str,
    formats: Sequence[str] = FORMATS,
    *,
    tokens: int = TOKENS,
    walk: bool = False,
    all_predictors: bool = False,
    at: str | Path | None = None,
    settings: Settings = (),
    on_progress: OnProgress = ignore_progress,
) -> SensitivityTable:
    """Measure how sensitive a model is to every format, on calibration text. Trains nothing.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        formats: The formats to measure.
        tokens: Tokens of calibration text.
        walk: Also run the model with every single site stored alone.
        all_predictors: Also the expensive predictors: Hutchinson, Monte Carlo, and Taylor by site.
        at: The folder of a finished 16-bit run; its adapter is merged first.
        settings: Overrides like `{"execution.threads": 1}`.
        on_progress: Called with a phase, the steps done and all steps.

    Returns:
        The damage of every format at every site and in all block matrices at once, in nats.

    Example:
        >>> from lowbit import measure
        >>> table = measure("demo:tiny", "demo", ["int3@64", "int8@64"], tokens=256,
        ...                 settings={"execution.threads": 1})
        >>> table.whole["int3@64"].kl > table.whole["int8@64"].kl
        True
    """
    for text in formats:
        parse(text)
    request = MeasureRequest(
        tuple(formats),
        samples=SAMPLES if all_predictors else 0,
        walk=walk,
        exact=all_predictors,
        costed=True,
    )
    return _table(model, task, request, tokens, at, settings, on_progress)


def guide(
    model: str | Path,
    task: str,
    sizes: Sequence[int] = SIZES,
    *,
    share: float = 1.0,
    tokens: int = TOKENS,
    at: str | Path | None = None,
    settings: Settings = (),
    on_progress: OnProgress = ignore_progress,
) -> Guide:
    """Recommend a precision for each rank and data size. Trains nothing.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        sizes: Tokens (or sentences) to train on.
        share: Damage allowed, as a share of what estimating the adapter costs.
        tokens: Tokens of calibration text.
        at: The folder of a finished 16-bit run; its adapter is merged first.
        settings: Overrides like `{"execution.threads": 1}`.
        on_progress: Called with a phase, the steps done and all steps.

    Returns:
        One recommendation for each rank and size, and the measurements they come from.
    """
    request = MeasureRequest(FORMATS, RANKS, samples=0, uniform=False, exact=False, costed=True)
    table = _table(model, task, request, tokens, at, settings, on_progress)
    rows = (tuple(advice(table, rank, size, share, FORMATS) for size in sizes) for rank in RANKS)
    return Guide(table, RANKS, tuple(sizes), share, tuple(rows))


def predict(
    model: str | Path,
    task: str,
    plans: Sequence[str | Path | Plan],
    *,
    tokens: int = TOKENS,
    all_predictors: bool = False,
    at: str | Path | None = None,
    settings: Settings = (),
    on_progress: OnProgress = ignore_progress,
) -> PlanPredictions:
    """Predict the gap of plans to the 16-bit model, before anything is trained.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        plans: TOML files, formats like `nf4@64`, names like `Joint-2`, or plans.
        tokens: Tokens of calibration text.
        all_predictors: Also the expensive predictors: Hutchinson and Monte Carlo.
        at: The folder of a finished 16-bit run; its adapter is merged first.
        settings: Overrides like `{"plan.rank": 4}`.
        on_progress: Called with a phase, the steps done and all steps.

    Returns:
        The predictions by plan; `lowbit.sensitivity.predictors.predictions` lists them for one.

    Example:
        >>> from lowbit import predict
        >>> forecast = predict("demo:tiny", "demo", ["int3@64"], tokens=256,
        ...                    settings={"execution.threads": 1})
        >>> [plan.name for plan in forecast.plans]
        ['int3@64']
    """
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity.predict import predict_plans

    specs, execution = requested_plans(model, task, plans, settings)
    open_machine(execution, "fp32")
    first = next(iter(specs.values()))
    by_name = {name: spec.plan for name, spec in specs.items()}
    calibration = Calibration(tokens, None if at is None else Path(at))
    samples = SAMPLES if all_predictors else 0
    return predict_plans(prepare_run(first), by_name, calibration, on_progress, samples)


def requested_plans(
    model: str | Path, task: str, plans: Sequence[str | Path | Plan], settings: Settings
) -> tuple[Mapping[str, RunSpec], Execution]:
    """The runs of several plans by name, and how to carry them out."""
    requests = [single_run(model, task, plan, 0, settings) for plan in plans]
    words = [plan.name if isinstance(plan, Plan) else str(plan) for plan in plans]
    specs = {word: spec for word, (spec, _) in zip(words, requests, strict=True)}
    return unique_names(specs), requests[0][1]


def unique_names(specs: Mapping[str, RunSpec]) -> dict[str, RunSpec]:
    """Plans by their names; where two have the same name, by the words that they were given as."""
    count = Counter(spec.plan.name for spec in specs.values())
    return {text if count[s.plan.name] > 1 else s.plan.name: s for text, s in specs.items()}


def _table(
    model: str | Path,
    task: str,
    request: MeasureRequest,
    tokens: int,
    at: str | Path | None,
    settings: Settings,
    on_progress: OnProgress,
) -> SensitivityTable:
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity import measure as measuring

    spec, execution = single_run(model, task, "bf16", 0, without_plan(settings))
    open_machine(execution, "fp32")
    calibration = Calibration(tokens, None if at is None else Path(at))
    return measuring.sensitivity_table(prepare_run(spec), request, calibration, on_progress)
