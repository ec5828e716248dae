"""Where logs come from: one module for each format that people have."""
