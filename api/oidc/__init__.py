"""Sign in at the company's identity provider, by OpenID Connect."""
