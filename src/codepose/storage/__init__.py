"""Files that survive kills, full disks and other processes: replaced in one step, locked, with checksums."""
