"""The dynamics of trained networks: fixed points, closed loops."""
