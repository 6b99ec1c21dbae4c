"""The experiments of the original plan under their original names, as a client of lowbit.

analysis           what both analysis scripts do: tables, predictions, validation
arguments          the scripts' command-line options
equations          the equations of the theory as LaTeX
fine_tune          one fine-tune at a bit-width, and its metrics as one JSON file
from_records       metrics files from a study's records, without training again
gap_panels         panels of gaps to 16 bits
latex              the derivation as a LaTeX document
notebook           a notebook from a script with `# %%` marks
original_formulas  the formulas of the original plan, and what is wrong with each
pairs              the 16-bit partner of each run, and the gap to it
panels             the figures, composed of gap_panels and run_panels
predicted_gaps     the predicted gap of each cell, measured at a 16-bit run's adapter
rounding           the error of rounding one weight
run_panels         panels of losses, gradients, bytes and training
simulation         the noise model compared with Monte Carlo
tables             tables of all metrics, of cost, and of predicted and observed gaps
"""
