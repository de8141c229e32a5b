"""A request, from its delivery to its settlement: open ``flow.py`` first."""
