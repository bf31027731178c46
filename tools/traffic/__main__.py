"""python -m tools.traffic [RECIPE[:DATA]]."""

from alexnet_jax.cli import border

if __name__ == "__main__":
    border.program("tools.traffic.report")
