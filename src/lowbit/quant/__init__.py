"""Quantisation: formats as data, and pure functions that encode and decode a matrix.

bitsandbytes  nf4 decoded by bitsandbytes' kernel, where it is installed
byte_counts   the bytes of a plan: stored, and while training
codec         encode and decode a matrix of any format
formats       every format as data, and its short spelling
packing       codes to bytes and back
scales        where a group's scale comes from, and how it is stored
"""
