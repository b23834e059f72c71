"""The course: running lessons, reports, comparison, search, plans."""
