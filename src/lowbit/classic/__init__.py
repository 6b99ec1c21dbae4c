"""The experiments that this project started from, under their own names, over the library.

`tuning`      one fine-tune in 16, 8 or 4 bits, and its metrics as one JSON file
`simulation`  the noise model against random numbers: what is right in it and what is not
`summary`     all metrics as tables, what they cost, predicted beside observed
`panels`      the figures
"""
