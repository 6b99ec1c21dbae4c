"""Measures once what low precision does to a model, to predict the cost of any plan.

anchor            damage scaled to what running the stored model shows
build_table       damage of every site in every format, from a model and calibration text
by_name           measure, predict and guide, for a model, task and plans given by name
calibration       calibration text, spread evenly over a task's data
checkpoint_grid   the low-bit grid that a checkpoint already lies on
compare_formats   formats compared without a model
curvature         gradient, Fisher's diagonal and K-FAC factors of a site, and their costs
embedding_slopes  gradients of embeddings, by the rows looked up
estimate          time and memory of measuring, from a model's shapes alone
full_precision    parts of a 16-bit model in fp32 while they are used
guide             recommended formats by rank and data size
head_slopes       the loss differentiated, by slices of a head's vocabulary
hessian           Hessian and Gauss-Newton products
hutchinson        Hutchinson's estimate of the damage of noise
joint_damage      damage of many sites stored at once
measure           the table of a model and task, cached on disk
measured_model    a model with calibration text, whose weights can be changed and restored
model_outputs     losses of a model, and the KL between two
open_model        opens the base model or a finished run for measuring
passes            passes over text, block after block
predict           predictions for whole plans
predictors        predicted gaps by every predictor, and which one to trust
rank_correction   how much of an error a rank can correct
rank_gain         how much a larger rank gains on the task
record_gradients  gradients of some sites, and K-FAC factors by hooks
table             the sensitivity table and what is asked for it; no torch
walk_curvature    measures the curvature of every site, block after block
weight_changes    changes of weights, computed when they are used
weight_errors     exact weights, and the errors of formats
theory/           the formulas behind it, for the planner, papers and notebooks
"""
