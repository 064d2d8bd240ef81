"""``ghostzoo bench``: the original's speed and storage tables, on the user's own machine.

``measure`` takes the figures, ``results`` holds them, ``tables``, ``picture`` and ``comparison`` show them.
"""
