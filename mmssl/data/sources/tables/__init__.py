"""Data sets of media files that a table names."""
