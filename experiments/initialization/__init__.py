"""What initialisations do to gradients at the start."""
