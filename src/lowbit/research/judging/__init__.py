"""Decides whether a trial is kept, discarded or a crash.

decide     kept, discarded or undecided
run_cache  runs, or results that the ledger has already
"""
