"""Recording episodes: policies, processes, keyboards."""
