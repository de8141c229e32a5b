"""Ask for sessions with blocking pika, which knows nothing of this project: JSON in, JSON out.

python examples/pika_requester.py --url amqp://guest:guest@localhost:5672/ --user ada@example.com
python examples/pika_requester.py get --user ada@example.com --session-id ts_251013_abc123
"""

import argparse
import json
import sys
import time
import uuid

import pika
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, NackError, UnroutableError

DIRECT = "amq.rabbitmq.reply-to"
NOWHERE = "no queue takes requests there: start a worker"
OPERATIONS = {  # by routing key
    "create": "create_session",
    "get": "get_session",
    "list": "list_sessions",
    "close": "close_session",
}


def ask(url: str, routing_key: str, request: dict, *, own_queue: bool, timeout: float) -> bytes:
    """The answer to the request. It is sent again if the connection is lost or the broker did not take it:
    one id has one outcome."""
    end = time.monotonic() + timeout
    trouble = "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                answer = ask_once(connection, routing_key, request, own_queue=own_queue, seconds=left)
                if answer is not None:
                    return answer
        except (AMQPConnectionError, NackError) as error:
            trouble = repr(error)
            time.sleep(0.5)
    raise TimeoutError(f"{trouble} within {timeout:g} s; ask again with --request-id {request['request_id']}")


def ask_once(
    connection: pika.BlockingConnection, routing_key: str, request: dict, *, own_queue: bool, seconds: float
) -> bytes | None:
    channel = connection.channel()
    channel.confirm_delivery()
    # A server-named queue of this connection, or none at all: the broker passes the answer straight on.
    reply_to = channel.queue_declare("", exclusive=True).method.queue if own_queue else DIRECT
    correlation_id = uuid.uuid4().hex
    answers: list[bytes] = []

    def take(_channel: object, _method: object, properties: pika.BasicProperties, body: bytes) -> None:
        if properties.correlation_id == correlation_id:
            answers.append(body)

    # Consume before publishing: direct reply-to insists on it.
    channel.basic_consume(reply_to, take, auto_ack=True)
    channel.basic_publish(
        exchange="session",
        routing_key=routing_key,
        body=json.dumps(request).encode(),
        properties=pika.BasicProperties(
            content_type="application/json",
            correlation_id=correlation_id,
            reply_to=reply_to,
            delivery_mode=pika.DeliveryMode.Persistent.value,
        ),
        mandatory=True,
    )
    end = time.monotonic() + seconds
    while not answers and (left := end - time.monotonic()) > 0:
        connection.process_data_events(time_limit=left)
    return answers[0] if answers else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("routing_key", nargs="?", choices=OPERATIONS, default="create")
    parser.add_argument("--url", default="amqp://guest:guest@localhost:5672/")
    parser.add_argument("--user", required=True)
    parser.add_argument("--title", help="of the session to create")
    parser.add_argument("--session-id", help="of the session to get or to close")
    parser.add_argument(
        "--request-id", default=str(uuid.uuid4()), help="ask again: the same id, the same answer"
    )
    parser.add_argument("--own-queue", action="store_true", help="a reply queue instead of direct reply-to")
    parser.add_argument("--timeout", type=float, default=30.0)
    args = parser.parse_args()
    of_session = {"session_id": args.session_id}
    payload = {"create": {"title": args.title}, "list": {}}.get(args.routing_key, of_session)
    request = {
        "request_id": args.request_id,
        "user_id": args.user,
        "operation": OPERATIONS[args.routing_key],
        "payload": payload,
    }
    try:
        answer = ask(args.url, args.routing_key, request, own_queue=args.own_queue, timeout=args.timeout)
    except TimeoutError as error:
        sys.exit(str(error))
    except UnroutableError:
        sys.exit(NOWHERE)
    except ChannelClosedByBroker as closed:  # 404: no such exchange; 403: a permission is missing
        sys.exit(NOWHERE if closed.reply_code == 404 else closed.reply_text)
    print(answer.decode())
    sys.exit(0 if json.loads(answer)["status"] == "completed" else 1)
