"""The opportunities: lists, items, export, and the bid team's own status of each."""
