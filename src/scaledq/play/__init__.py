"""Environments, policies in them, and what they scored. A policy is `(obs, task) -> actions`."""
