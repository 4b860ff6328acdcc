"""Data sets, their training streams and fixed test sets, and the distortions of the paper."""
