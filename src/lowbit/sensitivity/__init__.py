"""What few bits do to a model, measured once and predicted for every plan.

cached           a model measured, and the measurements kept
curvature        second-order statistics of every site from a few passes
guide            formats and ranks that the predictions recommend
hessian          Hessian-vector products
hutchinson       Hutchinson's estimate of a trace
joint_damage     damage of a whole plan at once
measure          damage of every site in every format
measured_model   a model opened for measuring, its sites exchanged in place
predictors       the predictors by name
rank_correction  how much of an error a rank can correct
rank_gain        what a larger rank gains
table            the sensitivity table: site, format, predicted damage
theory/          the formulas behind it
"""
