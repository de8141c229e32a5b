"""How client and worker reach servers: URLs, TLS, threads, and what to say when it fails."""
