"""What a device tells about itself: one probe, and pure parsers of its recorded output."""
