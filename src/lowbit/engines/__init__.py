"""Where runs are carried out. An engine is one file that defines `ENGINE`."""
