"""Users: who they are, how they sign in, the tokens they hold."""
