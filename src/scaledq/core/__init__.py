"""The shared words: tasks, batches, configs, protocols, files, errors. Imports nothing of ours."""
