"""The transparency log: trees, notes, tiles, witnesses, and the attacks that they are there to find."""
