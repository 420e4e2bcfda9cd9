"""MeltanoLabs' target-postgres with a fast path, and a fence between runs."""
