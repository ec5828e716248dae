"""What is minimised, and the one step that does it. A network is `(obs, task) -> outputs`."""
