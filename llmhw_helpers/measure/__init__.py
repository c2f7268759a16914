"""What this machine does: its description, timers, calibration, and the files in which results are kept."""
