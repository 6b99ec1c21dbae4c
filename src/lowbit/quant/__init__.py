"""Numbers to codes to numbers: pure functions over formats that are data.

bitsandbytes  nf4 decoded by bitsandbytes' kernel, for those who have it
byte_counts   the one place that counts stored bytes
codec         the one encoder and the one decoder
error_bounds  the largest error of a stored weight, derived from the levels
formats       every format as data, and its short spelling
packing       codes to bytes and back
scales        where a group's scale comes from, and how it is stored
"""
