"""`make attack`: what strangers and users may do to a server of its own, which others still use."""
