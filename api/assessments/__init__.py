"""Assessments: whether to bid for a deal, scored by criteria, decided by a manager."""
