"""A campaign's settings, its event log, and the state computed from that log.

edits          edits of the candidate's text
git_branch     the campaign's branch
ledger         the event log
ledger_writer  one writer at a time
replay         the state, from the events
results_tsv    results.tsv
run_result     result of one run of a candidate
settings       campaign settings and file locations
significance   noise, alpha and the paired test
state          trials and the incumbent
"""
