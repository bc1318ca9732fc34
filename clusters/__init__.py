"""The command line, Ray clusters and job submission: the only package that knows all others."""
