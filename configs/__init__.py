"""The recipes: one AlexNet per file. `alexnet.py` is the network itself, and `datasets.py` has the facts of data sets."""
