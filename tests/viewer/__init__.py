"""The viewer: who gets in, what they see, and what is recorded of it."""
