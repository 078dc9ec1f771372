"""Half precision with XNNPACK."""
