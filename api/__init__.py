"""What serves the opportunities: the API, its tables (`migrations/`) and its pages."""
