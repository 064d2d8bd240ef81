"""From a model's name to a bundle: where it is looked for, the Hub, the official weights, and the cache."""
