"""What a handler gets and raises, how it is found, and the built-in one."""
