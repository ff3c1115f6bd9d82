"""Recall of models on tasks, in several orders of reading: the run, its results, and their report."""
