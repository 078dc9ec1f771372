"""What runs on the device, in Python 3.9. Nothing here is imported on the host."""
