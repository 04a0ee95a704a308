"""The store's promises: what is acknowledged stays, whatever the disk, the power or somebody else does."""
