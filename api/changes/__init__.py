"""What changes on deals: a feed for programs, and Today for people."""
