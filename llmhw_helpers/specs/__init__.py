"""Facts, each with its source and its meaning. Standard library only: these files also run in a reader's browser."""
