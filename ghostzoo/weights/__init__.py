"""Files that Paddle wrote, read as data: weights as pickles, and programs."""
