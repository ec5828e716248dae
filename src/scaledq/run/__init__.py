"""Where the five departments meet: collect, train, fine-tune, evaluate."""
