"""The networks, one torch file per block of a paper. Importing this package imports no torch."""
