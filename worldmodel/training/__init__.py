"""From batches to checkpoints: the loop, its guard, its optimizers, one process or many."""
