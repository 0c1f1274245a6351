"""Evidence: tasks, judges, statistics and reports of what a model answers."""
