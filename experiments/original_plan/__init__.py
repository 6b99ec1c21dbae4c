"""The experiments of the original plan, under their original names, on top of the library.

analysis           the analysis scripts' common part: tables, predictions, validation
arguments          command lines of the scripts
fine_tune          one fine-tune at a bit-width, and its metrics as one JSON file
from_records       a study's records as such metrics files, without training again
gap_panels         panels of gaps to 16 bits
latex              a derivation as LaTeX, with its equations
notebook           a script with `# %%` marks as a notebook
original_formulas  the formulas of the original plan, and what is wrong with each
pairs              which runs are compared, and their gaps to 16 bits
panels             the figures, made of gap_panels and run_panels
predicted_gaps     the predicted gap of each cell, at its own 16-bit adapter
run_panels         panels of losses, gradients, bytes and training
simulation         the noise model compared with Monte Carlo
tables             all metrics as tables, their cost, predicted and observed gaps
"""
