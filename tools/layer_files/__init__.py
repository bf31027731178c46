"""cuda-convnet's layer files: their text, their network and rates, and the recipe nearest to them."""
