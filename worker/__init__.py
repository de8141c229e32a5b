"""A request/reply worker for RabbitMQ that answers every request, once in effect."""
