"""New paths of modules that moved, for plug-ins written for the old layout.

Modules of version 0.1 were at the root of the package. If a plug-in imports an old path, the error
names the new one instead of "No module named ...".
"""

from __future__ import annotations

_TABLE = """
account=runs.record_fields adalora=train.rank_schedule adapt=train.loop added=study.additions
appendix=report.appendix blas=layers.matmul cells=study.cells charts=report.charts
checkpoint=train.checkpoint claims=study.claims clocks=train.log compiling=train.compile
config=core.toml demo=runs.demo_model device=runs.device
distilling=train.distillation drawing=report.draw encoded=runs.encoding_cache
engines=runs.workers engines.base=runs.workers.pool engines.local=runs.workers.pool
engines.preload=runs.workers.preload engines.process=runs.workers.process errors=core.errors
evaluate=train.evaluate evaluations=runs.cached_scores execution=core.execution
export=runs.export export.peft=runs.export.peft export.plain=runs.export.merge
export.ternary=runs.export.ternary exporting=runs.finished_run figures=report.figures
figures.bars=report.figures.bars figures.curves=report.figures.curves
figures.forest=report.figures.forest figures.frontier=report.figures.frontier
figures.gradients=report.figures.gradients figures.look=report.figures.style
figures.memory=report.figures.memory figures.pareto=report.figures.pareto
figures.predicted=report.figures.predicted figures.ranks=report.figures.ranks
figures.sizes=report.figures.sizes files=core.files forecasting=study.make_forecast
forecasts=study.forecasts freezing=runs.freeze gaps=study.predicted_vs_observed
guiding=sensitivity.guide heap=runs.allocator hessian=sensitivity.hessian
inference=core.paired_tests initial=layers.adapters install=layers.install
jointly=sensitivity.joint_damage lab=curvature.measured_model layer_charts=report.charts
lent=runs.untrained losses=train.losses measure=sensitivity.build_table
measuring=sensitivity.measure models.attention=models.packed_attention
models.reading=models.weights noise=train.gradient_noise page_charts=report.charts
pairing=study.pairing plan.controls=planner.controls plan.joint=planner.options
plan.maps=planner.other_quantizers plan.program=planner.knapsack plan.reading=plan.file
plan.search=planner.search plan.wanted=planner.request planning=planner.planner
predicting=runs.build predictors=sensitivity.predictors preflight=runs.memory_check
probe=runs.dry_run products=layers.autograd progress=core.progress qat=train.ternary_hooks
quant.ledger=quant.byte_counts reach=sensitivity.rank_correction ready=runs.build
recipe=core.schedules record=runs.record registry=core.plugins
research.artefact=research.candidate.artefact research.book=research.campaign.ledger_writer
research.branch=research.campaign.git_branch research.chart=research.report.progress_chart
research.deciding=research.judging.decide research.driver=research.session
research.edits=research.campaign.edits research.ending=research.final_evaluation
research.evaluator=research.candidate.evaluator research.findings=research.report.findings
research.jail=research.candidate.jail research.judge=research.campaign.significance
research.ledger=research.campaign.ledger research.outcomes=research.campaign.run_result
research.page=research.report.page research.replaying=research.campaign.replay
research.results=research.campaign.results_tsv research.running=research.judging.run_cache
research.sandbox=research.candidate.sandbox research.saying=research.report.console
research.server=research.mcp_server research.state=research.campaign.state
research.telling=research.report.wording research.texts=research.candidate.text_split
research.trials=research.candidate.sealed_run research.verbs=research.actions
research.views=research.proposers.view research.watching=research.candidate.process_watch
room=planner.budget rows=study.summary_rows run=runs.run sayings=report.wording
scorecard=study.scorecard scoring=runs.scoring shorthand=study.shorthand single=runs.request
solo=runs.isolated_cost spec=core.spec state=train.state stats=core.stats
studycheck=study.checks studyfile=study.schema table=report.table tally=report.scorecard_table
tasks.cache=core.cache tasks.check=tasks.checks tasks.local=tasks.local_file
tasks.store=core.array_store tasks.tokens=tasks.examples ternary=layers.ternary
ternary.grid=layers.ternary.grid ternary.linear=layers.ternary.linear
ternary.schedule=core.schedules ternary.store=layers.ternary.packing
ternary.teacher=train.teacher_outputs theory=sensitivity.theory
theory.damage=sensitivity.theory.damage theory.distortion=sensitivity.theory.distortion
traces=sensitivity.hutchinson verdicts=study.verdicts worth=sensitivity.rank_gain
"""

MOVED: dict[str, str] = dict(pair.split("=") for pair in _TABLE.split())  # type: ignore[misc]
"""Old path -> new path, both without `lowbit.`."""


def new_path(module: str) -> str | None:
    """The module's new path, or None if it did not move."""
    name = module.removeprefix("lowbit.")
    return f"lowbit.{MOVED[name]}" if name in MOVED else None
