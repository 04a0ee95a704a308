"""The command line's promises: what is shown, what is changed, and how it ends."""
