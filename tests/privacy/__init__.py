"""The key store and sealed members: keys, erasure, master keys."""
