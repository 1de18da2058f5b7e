"""What is measured side by side: drawing and collecting, reading, training steps, demonstrators."""
