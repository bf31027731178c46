"""A network for those who do not have this package: ONNX, StableHLO, and a folder for the Hugging Face Hub."""
