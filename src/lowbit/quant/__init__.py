"""Quantisation: formats as data, and pure functions that encode and decode a matrix.

bitsandbytes  decodes nf4 with bitsandbytes' kernel, if it is installed
byte_counts   the bytes of a plan: stored, and while training
calibrated    rounds a matrix with its inputs in mind
codec         encode and decode a matrix of any format
find_grid     finds the low-bit grid that weights already lie on
formats       every format as data, and its short spelling
input_metric  the second moment of a layer's inputs, and the order of its columns
levels        the levels of integer and NormalFloat formats
packing       codes to bytes and back
scales        computes a group's scale and rounds it as it is stored
two_sided     rounds a matrix towards the model's loss
"""
