"""Pictures with masks, from files to training batches."""
