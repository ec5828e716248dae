"""Networks: encoders, the neck between encoder and heads, and one head a task."""
