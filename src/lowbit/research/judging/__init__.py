"""What becomes of a trial.

decide     kept, discarded or undecided
run_cache  runs, or results that the ledger has already
"""
