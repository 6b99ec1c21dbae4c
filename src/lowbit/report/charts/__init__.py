"""Interactive charts of the page, drawn from the figures' data."""
