"""python -m tools.layer_files LAYERS.cfg LAYER-PARAMS.cfg."""

from alexnet_jax.cli import border

if __name__ == "__main__":
    border.program("tools.layer_files.command")
