"""What training shows of gradients."""
