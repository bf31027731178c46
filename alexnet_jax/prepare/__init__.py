"""Preparing a data set: raw pictures in, array_record shards with their metadata out."""
