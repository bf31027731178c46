"""python -m experiments.ledger list|run|report."""

from alexnet_jax.cli import app

if __name__ == "__main__":
    app.program("experiments.ledger.command")
