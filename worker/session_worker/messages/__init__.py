"""What arrives and leaves: deliveries, messages, headers, ids, and errors that two rooms speak of."""
