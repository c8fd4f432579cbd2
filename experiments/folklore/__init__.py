"""What is told about vanishing and exploding gradients, put to the test."""
