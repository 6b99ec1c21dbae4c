"""Runs a model block after block on a text: its outputs, gradients and curvature.

calibrated_share  how much of a damage calibrated rounding is expected to leave
embedding_slopes  gradients of embeddings, by the rows looked up
full_precision    parts of a 16-bit model in fp32 while they are used
head_slopes       the loss differentiated, by slices of a head's vocabulary
measured_model    a model with a text, whose weights can be changed and restored
model_outputs     losses of a model, and the KL between two
open_base         opens a checkpoint with the weights that 16 bits store
output_gradients  how much the loss depends on each token and row of a matrix, for rounding
passes            passes over text, block after block
record_gradients  gradients of some sites, and K-FAC factors by hooks
site_curvature    gradient, Fisher's diagonal and K-FAC factors of a site, and their costs
walk_curvature    measures the curvature of every site, block after block
weight_changes    changes of weights, computed when they are used
weight_errors     exact weights, and the errors of formats
"""
