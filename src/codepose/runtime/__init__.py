"""What training and inference stand on: run folders, checkpoints, devices, processes, progress."""
