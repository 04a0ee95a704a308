"""The version of the package, in one place for the build and for `audit.log_opened`."""

__version__ = "0.9.0"
