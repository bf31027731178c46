"""python -m tools.layer_files LAYERS.cfg LAYER-PARAMS.cfg."""

from alexnet_jax.cli import app

if __name__ == "__main__":
    app.program("tools.layer_files.command")
