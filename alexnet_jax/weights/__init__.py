"""Weights in and out of files, in the layouts that people have."""
