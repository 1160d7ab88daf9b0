"""Large pictures, from file to files: run.py is the road, part.py what is done so far, results.py what it becomes."""
