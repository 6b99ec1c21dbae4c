"""The experiments that this project started from, under their own names, over the library.

`tuning`      one fine-tune in 16, 8 or 4 bits, and its metrics as one JSON file
`simulation`  the noise model against random numbers: what is right in it and what is not
`collecting`  a study's records as the same files, so that nothing is trained twice
`pairs`       which runs are held against each other, and the gaps to 16 bits
`foreseen`    those gaps, predicted where each rank's own 16-bit adapter stands
`summary`     all metrics as tables, what they cost, predicted beside observed
`panels`      the figures, of `run_panels` and `gap_panels`
"""
