"""From rows of scores to statistics, figures, tables and pages."""
