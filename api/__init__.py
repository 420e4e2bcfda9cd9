"""What serves the opportunities: the API and its pages."""
