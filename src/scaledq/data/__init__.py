"""Logs become a store, a store becomes batches."""
