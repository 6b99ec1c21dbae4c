"""Writes the report of a study: tables, figures and an HTML page. No torch.

appendix         appendices: ranks, formats, settings, costs, logs
draw             all figures of a study
page             the HTML page
scorecard_table  predicted gaps and predictors as tables
table            the summary table of a study
wording          findings as sentences
write_report     writes a report, the public function
charts/          interactive charts of the page
figures/         static figures for a paper
templates/       the page's HTML and CSS
"""
