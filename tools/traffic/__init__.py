"""What crosses the wires in a training step, read off the compiled step, and its predicted time on many devices."""
