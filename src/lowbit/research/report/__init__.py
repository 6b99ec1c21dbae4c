"""What a campaign did, for people.

console         lines on the terminal
findings        what the trials show
page            report.html
progress_chart  the best loss over trials
wording         results in words
"""
