"""From a model's name to a bundle folder: the order of places, the Hub, PaddleClas's weights, and what is kept."""
