"""A head for classes of a user's own on the features of a model: pictures in folders -> a bundle."""
