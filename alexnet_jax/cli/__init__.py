"""What `python -m alexnet_jax COMMAND` runs."""
