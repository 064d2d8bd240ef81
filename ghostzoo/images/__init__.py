"""From a source to the network's input: sources, reading within limits, preprocessing."""
