"""What connects the trail to what services are built with: web frameworks, logging libraries, metrics, test runners.

A module for each; none imports its framework before it is imported itself, and nothing in the rest of the package
imports from here.
"""
