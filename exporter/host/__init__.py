"""What a host says of its own RNICs."""
