"""Similar pictures: embeddings of a folder in a file, the nearest of them, and pictures that are nearly the same."""
