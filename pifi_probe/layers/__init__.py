"""From a checkpoint to one frozen layer."""
