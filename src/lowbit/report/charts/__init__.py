"""Interactive charts of the page, drawn from the figures' data.

base      what all charts share, and the charts of results
layers    charts by layer
sections  which charts a section of the page has
"""
