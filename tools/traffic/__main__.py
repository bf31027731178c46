"""python -m tools.traffic [RECIPE[:DATA]]."""

from alexnet_jax.cli import app

if __name__ == "__main__":
    app.program("tools.traffic.command")
