"""Reports of a campaign for people: terminal lines, chart and HTML page.

console         terminal output: one line per event, and the status
findings        gains with intervals, ablations, losses per trial
page            report.html
progress_chart  perplexity of every trial, and of the best program so far
wording         results in sentences
"""
