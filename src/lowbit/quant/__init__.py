"""Numbers -> codes -> numbers: pure functions over formats that are data."""
