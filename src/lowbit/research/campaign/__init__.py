"""What a campaign is and what it has done.

edits          edits of the candidate's text
git_branch     the campaign's branch
ledger         the event log
ledger_writer  one writer at a time
replay         the state, from the events
results_tsv    results.tsv
run_result     what one run of a candidate left
settings       campaign.toml and where files lie
significance   noise, alpha and the paired test
state          trials and the incumbent
"""
