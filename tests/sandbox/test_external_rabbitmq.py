"""A broker that was there before the tests, reached through its management interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pika
import pika.exceptions
import pytest

from session_worker.sandbox.workspace import free_port
from tests.support.external_rabbitmq import ExternalRabbitMQ
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.support.servers import RabbitMQ


@pytest.fixture
def broker(managed_node: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> ExternalRabbitMQ:
    monkeypatch.setattr(
        "tests.support.external_rabbitmq.MANAGEMENT_PORT", int(managed_node.management_url.rpartition(":")[2])
    )
    return ExternalRabbitMQ(managed_node.url)


def test_it_offers_vhosts_users_and_depths_like_a_private_node(broker: ExternalRabbitMQ) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.vhost("a b/é"))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"x")
        soon(lambda: broker.queue_depths("a b/é") == {"q": 1})
        broker.delete_queue("a b/é", "q")
        soon(lambda: broker.queue_depths("a b/é") == {})
        url = broker.add_user("reader", "se cret", "a b/é", configure="^mine$")
        with pika.BlockingConnection(pika.URLParameters(url)) as other:
            other.channel().queue_declare("mine")
    broker.delete_vhost("a b/é")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(broker.vhost_url("a b/é")))


def test_without_a_management_interface_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.external_rabbitmq.MANAGEMENT_PORT", free_port())
    with pytest.raises(RuntimeError, match="rabbitmq-plugins enable rabbitmq_management"):
        ExternalRabbitMQ(f"amqp://guest:guest@127.0.0.1:{free_port()}/")
