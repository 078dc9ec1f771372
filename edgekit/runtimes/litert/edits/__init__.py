"""Changes to a .tflite file."""
