"""What `make docs` needs besides the generator: signatures of msgspec's structs, and a check of what was built."""
