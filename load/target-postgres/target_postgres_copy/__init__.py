"""MeltanoLabs' target-postgres with a fast path for records of plain values."""
