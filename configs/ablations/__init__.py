"""AlexNets that change one thing."""
