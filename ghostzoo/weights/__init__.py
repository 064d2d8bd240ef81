"""Weight and program files, read as data."""
