"""RabbitMQ, as the worker's hot path needs it: link, consumer, publisher, topology."""
