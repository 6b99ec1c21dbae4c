"""Measures once what low precision does to a model, to predict the cost of any plan.

anchor            damage scaled to what running the stored model shows
build_table       damage of every site in every format, from a model and calibration text
by_name           measure, predict and guide, for a model, task and plans given by name
calibration       calibration text, spread evenly over a task's data
checkpoint_grid   the low-bit grid that a checkpoint already lies on
compare_formats   formats compared without a model
estimate          time and memory of measuring, from a model's shapes alone
guide             recommended formats by rank and data size
hessian           Hessian and Gauss-Newton products
hutchinson        Hutchinson's estimate of the damage of noise
joint_damage      damage of many sites stored at once
measure           the table of a model and task, cached on disk
open_model        opens the base model or a finished run for measuring
predict           predictions for whole plans
predictors        predicted gaps by every predictor, and which one to trust
rank_correction   how much of an error a rank can correct
rank_gain         how much a larger rank gains on the task
table             the sensitivity table and what is asked for it; no torch
theory/           the formulas behind it, for the planner, papers and notebooks
"""
