"""What happened, so written that anyone can check it and nobody can rewrite it."""
