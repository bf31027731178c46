"""The network: the axis between the towers, its layers, and what it is given."""
