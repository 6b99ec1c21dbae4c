"""What a person sees of a study: tables, figures, the page. No torch.

appendix         a paper's appendices
draw             all figures of a study
page             the HTML page
scorecard_table  predicted gaps and predictors as tables
table            the study's table
wording          findings in words
write_report     the report of a study given by name
charts/          interactive charts of the page
figures/         figures for a paper
templates/       the page's HTML and CSS
"""
