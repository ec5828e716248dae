"""Offline Q-learning on diverse multi-task logs: one generalist policy for many tasks."""
