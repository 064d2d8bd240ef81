"""From a model's name to a bundle: where it is looked for, the Hub, PaddleClas's weights, and the cache."""
