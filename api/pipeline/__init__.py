"""The pipeline over time: what became of the open deals between two days."""
