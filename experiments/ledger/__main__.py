"""python -m experiments.ledger list|run|report."""

from alexnet_jax.cli import border

if __name__ == "__main__":
    border.program("experiments.ledger.command")
